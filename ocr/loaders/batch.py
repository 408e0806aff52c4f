"""What a loader hands to one step."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from dali_pipelines.source import PlannedSample
from ocr.datasets.base import ValidatedOCRDataset
from ocr.polygons import PolygonBatch
from ocr.targets import TargetMaps


@dataclass(frozen=True)
class Batch:
    """What one step gets."""

    images: torch.Tensor
    """(B, 3, H, W) normalised, on the device, in memory as pipeline.output_layout says. Those of a cached split are views of the
    cache, always in planes: not to be modified."""
    samples: tuple[PlannedSample, ...]
    targets: TargetMaps | None
    """On the device; padded samples have empty masks. None where they were not asked for."""
    dataset: ValidatedOCRDataset

    def to(self, device: torch.device | str, **_: Any) -> "Batch":
        """Itself, since it was made on the device. Lightning moves each batch by this name."""
        return self

    @cached_property
    def polygons_input(self) -> PolygonBatch:
        """On the host, moved when they are first asked for."""
        return self.dataset.planner.input_polygons(self.dataset.manifest, self.samples)
