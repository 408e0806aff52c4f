"""DALI on shards: their bytes are fetched ahead of the plan and handed to the graph as content that is in memory."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch

from dali_pipelines.config import PipelineConfig
from dali_pipelines.loader import DaliLoader
from dali_pipelines.source import ImageBatch, KeptImages, PlannedBatches, SourceImages
from ocr.datasets.shards.images import ShardImages
from ocr.datasets.shards.read_ahead import ReadAhead, ReadAheadPlan

NUM_FETCHED_AHEAD = 32
"""Images, in whole batches; at least one batch."""


class ShardLoader(DaliLoader):
    """A `DaliLoader` whose files are in shards. Images that are kept in memory are not fetched.

    Args:
        images: of the split.
        kept: images in memory.
        others: as of `DaliLoader`.
    """

    def __init__(
        self,
        images: ShardImages,
        config: PipelineConfig,
        *,
        training: bool,
        batch_size: int,
        device: torch.device,
        skip_failures: bool,
        kept: KeptImages | None,
        levels: bool,
        largest_stored: tuple[int, int],
    ) -> None:
        self._ahead = ReadAhead(images.read, images.num_threads)
        self._shards = _FetchedImages(self._ahead, kept)
        self._num_ahead = max(1, NUM_FETCHED_AHEAD // batch_size)
        super().__init__(
            SourceImages(images.names, self._shards, largest_stored),
            config,
            training=training,
            batch_size=batch_size,
            device=device,
            skip_failures=skip_failures,
            levels=levels,
        )

    def batches(self, plan: PlannedBatches, first_step: int = 0) -> Iterator[ImageBatch]:
        self._ahead.forget()
        return super().batches(ReadAheadPlan(plan, self._shards.fetch, self._num_ahead), first_step)

    def release(self) -> None:
        super().release()
        self._ahead.stop()


class _FetchedImages:
    """`KeptImages` where every image is in memory, or on its way there."""

    def __init__(self, ahead: ReadAhead, kept: KeptImages | None) -> None:
        self._ahead, self._kept = ahead, kept
        self.device = kept.device if kept is not None else torch.device("cpu")

    def fetch(self, indices: list[int]) -> None:
        """Begins to read those that are not kept."""
        self._ahead.fetch(
            index for index in indices if self._kept_content(index) is None and self.decoded(index) is None
        )

    def encoded(self, index: int) -> npt.NDArray[np.uint8] | None:
        if self.decoded(index) is not None:
            return None
        content = self._kept_content(index)
        return np.frombuffer(self._ahead.get(index), np.uint8) if content is None else content

    def decoded(self, index: int) -> torch.Tensor | None:
        return None if self._kept is None else self._kept.decoded(index)

    def wants(self, index: int) -> bool:
        return self._kept is not None and self._kept.wants(index)

    def keep(self, index: int, image: torch.Tensor) -> None:
        if self._kept is not None:
            self._kept.keep(index, image)

    def _kept_content(self, index: int) -> npt.NDArray[np.uint8] | None:
        return None if self._kept is None else self._kept.encoded(index)
