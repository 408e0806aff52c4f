"""The contract between the tensor cache and whatever makes the samples that it does not hold."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from dali_pipelines.source import PlannedBatches, PlannedSample
from ocr.datasets.signature import Signature
from ocr.loaders.batch import Batch


class Maker(Protocol):
    """Makes samples of a split. Padded samples keep their target masks, since an entry serves real samples too."""

    def make(self, plan: PlannedBatches) -> Iterator[Batch]:
        """The batches of a plan."""

    def make_now(self, samples: Sequence[PlannedSample]) -> Batch:
        """One batch, made while `make` is in the middle of a plan."""

    def forget_changed(self, signatures: Mapping[int, Signature | None]) -> None:
        """Drops what is in memory of files that have changed; `signatures` are today's, by position in the manifest."""

    def drop_files(self, indices: Iterable[int]) -> None:
        """Drops the encoded files of images that need not be made again."""

    def release(self) -> None:
        """Frees what making needs, since every sample is cached. Making stays possible: it builds that again."""


@dataclass
class ChosenBatches:
    """A plan of the given batches."""

    epoch: int
    chosen: Sequence[Sequence[PlannedSample]]

    def __len__(self) -> int:
        return len(self.chosen)

    def batch(self, step: int) -> Sequence[PlannedSample]:
        return self.chosen[step]
