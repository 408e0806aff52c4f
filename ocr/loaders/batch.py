"""The batch that a loader hands to one training or evaluation step."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from dali_pipelines.source import PlannedBatch
from ocr.datasets.base import ValidatedOCRDataset
from ocr.polygons import PolygonBatch
from ocr.targets.target_maps import TargetMaps


@dataclass(frozen=True)
class Batch:
    """Images, the plan they were made by, and their target maps."""

    images: torch.Tensor
    """(B, 3, H, W) normalised, on the device, in the memory format of pipeline.output_layout. Images of a cached split are views of
    the cache, always CHW, and must not be modified."""
    samples: PlannedBatch
    targets: TargetMaps | None
    """On the device; None for a loader without targets."""
    dataset: ValidatedOCRDataset

    def to(self, device: torch.device | str, **_: Any) -> "Batch":
        """Returns itself: a batch is made on its device. Lightning calls this method on each batch."""
        return self

    def with_padding_blanked(self) -> "Batch":
        """Returns the batch with empty target masks for padded samples, which therefore count in no loss."""
        if self.targets is None or self.samples.num_real == len(self.samples):
            return self
        return replace(self, targets=self.targets.blanked(torch.from_numpy(self.samples.is_padding)))

    @cached_property
    def polygons_input(self) -> PolygonBatch:
        """Polygons of the samples in the input frame, on the host."""
        return self.dataset.with_text(self.samples).polygons_input
