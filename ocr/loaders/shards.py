"""Runs DALI on tar shards: images are fetched ahead of the plan and fed to the graph from memory."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch

from dali_pipelines.loader import DaliLoader
from dali_pipelines.source import ImageBatch, KeptImages, PlannedBatches
from ocr.datasets.shards.images import ShardImages
from ocr.datasets.shards.read_ahead import ReadAhead, ReadAheadPlan


class FetchedImages:
    """`KeptImages` in which every image is in memory, or is being fetched from its shard.

    Args:
        images: the split's images in shards.
        kept: images that a run keeps in memory; these are not fetched.
    """

    def __init__(self, images: ShardImages, kept: KeptImages | None) -> None:
        self._ahead = ReadAhead(images)
        self.num_ahead = images.num_ahead
        """Number of images to fetch ahead."""
        self._kept = kept
        self.device = kept.device if kept is not None else torch.device("cpu")

    def fetch(self, indices: list[int]) -> None:
        """Starts to fetch those images that are not kept."""
        self._ahead.fetch(
            index for index in indices if self._kept_content(index) is None and self.decoded(index) is None
        )

    def forget(self) -> None:
        """Drops fetched images that were not used."""
        self._ahead.forget()

    def stop(self) -> None:
        """Ends the fetching threads."""
        self._ahead.stop()

    def encoded(self, index: int) -> npt.NDArray[np.uint8] | None:
        if self.decoded(index) is not None:
            return None
        content = self._kept_content(index)
        return np.frombuffer(self._ahead.get(index), np.uint8) if content is None else content

    def decoded(self, index: int) -> torch.Tensor | None:
        return None if self._kept is None else self._kept.decoded(index)

    def wants(self, index: int) -> bool:
        return self._kept is not None and self._kept.wants(index)

    def wants_any(self) -> bool:
        return self._kept is not None and self._kept.wants_any()

    def keep(self, index: int, image: torch.Tensor) -> None:
        if self._kept is not None:
            self._kept.keep(index, image)

    def _kept_content(self, index: int) -> npt.NDArray[np.uint8] | None:
        return None if self._kept is None else self._kept.encoded(index)


class ShardLoader:
    """Runs a plan through DALI while the images of the next batches are fetched.

    Args:
        dali: loader that takes its images from `fetched`.
    """

    def __init__(self, dali: DaliLoader, fetched: FetchedImages) -> None:
        self._dali, self._fetched = dali, fetched
        # Ahead of the batches that DALI's feed prepares.
        self._num_ahead = max(1, fetched.num_ahead // dali.batch_size)
        # While one half is used, the other is on its way.
        self._num_together = max(1, self._num_ahead // 2)

    def batches(self, plan: PlannedBatches, first_step: int = 0) -> Iterator[ImageBatch]:
        """Yields the images of `plan` from `first_step` on."""
        read_ahead = ReadAheadPlan(plan, self._fetched.fetch, self._num_ahead, self._num_together)
        if not self._dali.has_prepared(read_ahead, first_step):
            self._dali.stop()  # its thread fetches images for the last iteration
            self._fetched.forget()
        return self._dali.batches(read_ahead, first_step)

    def release(self) -> None:
        """Frees the pipeline and ends the fetching threads; the next call of `batches` starts them again."""
        self._dali.release()
        self._fetched.stop()
