"""The loader as Lightning iterates it: restarted, abandoned, resumed."""

import gc
import threading
from itertools import islice
from pathlib import Path

import pytest
import torch

from ocr.datasets.base import ValidatedOCRDataset
from ocr.loaders.batch import Batch
from ocr.loaders.engines import Engine
from ocr.loaders.loader import BatchLoader
from tests.ocr.loaders.batches import CPU, first_batches, uncached_dataset


@pytest.fixture(scope="module")
def dataset(drawn: Path) -> ValidatedOCRDataset:
    return uncached_dataset(drawn, training=True)


def make_loader(dataset: ValidatedOCRDataset, name: str = "dali", batch_size: int = 3) -> BatchLoader:
    return BatchLoader(dataset, Engine(name, CPU), batch_size)


@pytest.mark.parametrize(("name", "num_workers"), [("dali", 0), ("torch", 1)])
def test_an_abandoned_iteration_does_not_change_the_next_one(dataset, name, num_workers):
    loader = BatchLoader(dataset, Engine(name, CPU, num_workers), 3)
    whole = [tuple(s.index for s in batch.samples) for batch in loader]
    assert sum(map(len, whole)) == len(dataset)
    for num_seen in (1, 3):  # a sanity check, limit_val_batches, a break
        first_batches(loader, num_seen)
        again = list(loader)
        assert [tuple(s.index for s in batch.samples) for batch in again] == whole
    loader.close()


def num_planning_threads() -> int:
    return sum(thread.name == "ahead" for thread in threading.enumerate())


def batches_of_epoch(loader: BatchLoader, epoch: int) -> list[Batch]:
    """Returns the batches of an epoch as Lightning takes them: the iterator is dropped with the last one."""
    loader.set_epoch(epoch)
    return list(islice(loader, len(loader)))


def assert_same(found: list[Batch], expected: list[Batch]) -> None:
    for mine, theirs in zip(found, expected, strict=True):
        assert torch.equal(mine.images, theirs.images)
        assert mine.samples.indices.tolist() == theirs.samples.indices.tolist()


def test_epochs_prepared_during_the_one_before_are_those_of_other_loaders(dataset):
    gc.collect()
    before = num_planning_threads()
    loader = make_loader(dataset, batch_size=1)
    loader.num_epochs = 3
    for epoch in range(3):
        assert_same(batches_of_epoch(loader, epoch), batches_of_epoch(make_loader(dataset, batch_size=1), epoch))
        gc.collect()
        # One batch per image: an epoch is too long to be prepared whole, which would end the thread.
        assert num_planning_threads() - before == (epoch < 2)
        assert loader.state_dict() == {"epoch": epoch, "samples": len(dataset)}
    assert_same(batches_of_epoch(loader, 0), batches_of_epoch(make_loader(dataset, batch_size=1), 0))
    loader.close()
    assert num_planning_threads() == before


def test_a_loader_that_prepares_the_next_epoch_can_resume_elsewhere(dataset):
    loader, stopped = make_loader(dataset), make_loader(dataset)
    loader.num_epochs = 3
    batches_of_epoch(loader, 0)
    stopped.set_epoch(1)
    iterator = iter(stopped)
    next(iterator), next(iterator)
    loader.load_state_dict(stopped.state_dict())
    resumed = list(loader)
    assert_same(resumed, batches_of_epoch(make_loader(dataset), 1)[2:])
    assert_same(batches_of_epoch(loader, 2), batches_of_epoch(make_loader(dataset), 2))


@pytest.mark.parametrize("name", ["dali", "torch"])
def test_a_resumed_loader_continues_with_the_same_pixels(name, dataset):
    loader = make_loader(dataset, name)
    loader.set_epoch(2)
    seen = first_batches(loader, 4)
    stopped = make_loader(dataset, name)
    stopped.set_epoch(2)
    iterator = iter(stopped)
    next(iterator), next(iterator)
    resumed = make_loader(dataset, name)
    resumed.load_state_dict(stopped.state_dict())
    for expected, batch in zip(seen[2:], first_batches(resumed, 2), strict=True):
        assert torch.equal(batch.images, expected.images)
        assert [s.index for s in batch.samples] == [s.index for s in expected.samples]


@pytest.mark.parametrize(("ranks", "batch_size"), [((2, 3), 2), ((3, 1), 2), ((1, 2), 3)])
def test_other_ranks_share_the_rest_of_an_epoch_each_sample_once(dataset, ranks, batch_size):
    def loaders(num_ranks):
        return [
            BatchLoader(dataset, Engine("dali", CPU, 0, True), batch_size, rank=rank, num_ranks=num_ranks)
            for rank in range(num_ranks)
        ]

    def real(batches):
        return [sample.index for batch in batches for sample in batch.samples if not sample.is_padding]

    before, after = (loaders(num_ranks) for num_ranks in ranks)
    seen = [index for loader in before for index in real([next(iter(loader))])]
    for loader in after:
        loader.load_state_dict(before[0].state_dict())
        seen += real(loader)
        assert sum(1 for _ in loader) == len(loader)  # the next iteration is a whole epoch again
    assert sorted(seen) == list(range(len(dataset)))


@pytest.mark.parametrize("epoch", [0, 1])
def test_the_epoch_after_a_finished_one_starts_at_its_beginning(dataset, epoch):
    loader = make_loader(dataset, batch_size=32)
    list(loader)
    state = loader.state_dict()
    other = make_loader(dataset, batch_size=32)
    other.load_state_dict(state)
    other.set_epoch(epoch)
    assert sum(len(batch.samples) for batch in other) == len(dataset)


def test_statistics_are_those_since_the_last_reset(dataset):
    loader = BatchLoader(dataset, Engine("torch", CPU), 3, with_targets=True)
    list(loader)
    assert loader.num_images == len(dataset)
    assert loader.wait_seconds > loader.target_seconds > 0
    loader.reset_statistics()
    assert (loader.num_images, loader.wait_seconds, loader.target_seconds) == (0, 0, 0)
