"""The contract between the tensor cache and the code that makes the samples missing in it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from dali_pipelines.signature import Signature
from dali_pipelines.source import PlannedBatch, PlannedBatches
from ocr.loaders.batch import Batch


class Maker(Protocol):
    """Makes samples of a split. Padded samples keep their target masks, because their cache entry serves real samples too."""

    def make(self, plan: PlannedBatches) -> Iterator[Batch]:
        """Yields the batches of a plan."""

    def make_now(self, samples: PlannedBatch) -> Batch:
        """Returns one batch, even while `make` is in the middle of a plan."""

    def forget_changed(self, signatures: Mapping[int, Signature | None]) -> None:
        """Drops images in memory whose files have changed.

        Args:
            signatures: present signature of each file, by position in the manifest; None for a missing file.
        """

    def drop_inputs(self, indices: Sequence[int]) -> None:
        """Drops the encoded files and the target maps of images whose entries are in memory."""

    def release(self) -> None:
        """Frees the memory and threads that making needs, once every sample is cached. A later call builds them again."""


@dataclass
class ChosenBatches:
    """A plan that consists of the given batches."""

    epoch: int
    chosen: Sequence[PlannedBatch]
    following: PlannedBatches | None = None

    def __len__(self) -> int:
        return len(self.chosen)

    def batch(self, step: int) -> PlannedBatch:
        return self.chosen[step]
