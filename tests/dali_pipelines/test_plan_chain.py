"""The first batches of the following plan are prepared during the last ones of a plan, and change nothing (DALI on the CPU)."""

import gc
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dali_pipelines.config import PipelineConfig
from dali_pipelines.loader import DaliLoader
from dali_pipelines.plan_chain import PlanChain
from dali_pipelines.source import ImageBatch, PlannedBatch, SourceImages
from ocr.datasets.base import ValidatedOCRDataset
from ocr.datasets.manifest import Manifest
from ocr.datasets.plan import EpochPlan, SamplePlanner
from ocr.datasets.schemas import DatasetConfig

CONFIG = PipelineConfig(image_size=96)
PLANNER = SamplePlanner(CONFIG, training=True, seed=3)
NUM_EPOCHS = 3


class WatchedPlan:
    """The plan of an epoch, which notes the batches that are drawn from it and from the plans after it."""

    def __init__(self, plan: EpochPlan, drawn: list[tuple[int, int]]) -> None:
        self.epoch, self.drawn, self._plan = plan.epoch, drawn, plan

    def __len__(self) -> int:
        return len(self._plan)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, WatchedPlan) and self._plan == other._plan

    @property
    def following(self) -> "WatchedPlan | None":
        following = self._plan.following
        return None if following is None else WatchedPlan(following, self.drawn)

    def batch(self, step: int) -> PlannedBatch:
        self.drawn.append((self.epoch, step))
        return self._plan.batch(step)


@pytest.fixture(scope="module")
def manifest(drawn: Path) -> Manifest:
    return manifest_of(drawn / "images" / "train")


def manifest_of(folder: Path) -> Manifest:
    return ValidatedOCRDataset(DatasetConfig(image_path=str(folder)), PLANNER).manifest


def plan_of(manifest: Manifest, epoch: int, num_epochs: int = NUM_EPOCHS, batch_size: int = 2) -> EpochPlan:
    return EpochPlan(manifest, PLANNER, epoch=epoch, batch_size=batch_size, num_epochs=num_epochs)


def make_loader(manifest: Manifest, **config) -> DaliLoader:
    images = SourceImages(manifest.image_paths)
    settings = CONFIG.model_copy(update=config)
    return DaliLoader(images, settings, training=True, batch_size=len(manifest), device=torch.device("cpu"))


def drained(manifest: Manifest, epoch: int, first_step: int = 0) -> list[ImageBatch]:
    """Returns the batches of an epoch from a loader of its own."""
    return list(make_loader(manifest).batches(plan_of(manifest, epoch), first_step))


def assert_same(found: list[ImageBatch], expected: list[ImageBatch]) -> None:
    for mine, theirs in zip(found, expected, strict=True):
        assert torch.equal(mine.images, theirs.images)
        assert mine.samples.indices.tolist() == theirs.samples.indices.tolist()
        assert mine.samples.has_failed.tolist() == theirs.samples.has_failed.tolist()


def planning_threads() -> int:
    """Returns the number of threads that plan. Those of loaders that are garbage by now get a moment to end."""
    gc.collect()
    for thread in threading.enumerate():
        if thread.name == "ahead":
            thread.join(0.2)
    return sum(thread.name == "ahead" for thread in threading.enumerate())


def test_a_chain_ends_with_the_last_plan_and_notes_each_plan_before_its_batches(manifest):
    chain = PlanChain(plan_of(manifest, 0), first_step=3)
    batches = chain.batches()
    next(batches), next(batches)
    assert (chain.begun, chain.num_later) == ([], 0)
    next(batches)
    assert (chain.begun, chain.num_later) == ([plan_of(manifest, 1)], 5)
    assert len(list(batches)) == 4 + 5
    assert chain.begun == [plan_of(manifest, 1), plan_of(manifest, 2)]


@pytest.mark.parametrize("is_closed_early", [True, False])
def test_epochs_continue_without_a_new_start_and_with_the_same_pixels(is_closed_early, manifest):
    planned: list[tuple[int, int]] = []
    loader = make_loader(manifest)
    for epoch in range(NUM_EPOCHS):
        plan, found = WatchedPlan(plan_of(manifest, epoch), planned), []
        batches = loader.batches(plan)
        for _ in range(len(plan)):
            found.append(next(batches))
        assert ((epoch + 1, 0) in planned) == (epoch + 1 < NUM_EPOCHS)  # drawn before the last batch was handed out
        if is_closed_early:
            batches.close()
        assert list(batches) == []
        assert_same(found, drained(manifest, epoch))
    assert planned == [(epoch, step) for epoch in range(NUM_EPOCHS) for step in range(5)]
    assert planning_threads() == 0


@pytest.mark.parametrize("config", [{"prefetch_queue_depth": 1}, {"prefetch_queue_depth": 5}, {"num_threads": 1}])
def test_epochs_of_one_batch_continue_too(config, manifest):
    loader = make_loader(manifest, **config)
    for epoch in range(NUM_EPOCHS):
        plan = plan_of(manifest, epoch, batch_size=len(manifest))
        assert_same(list(loader.batches(plan)), list(make_loader(manifest).batches(plan)))


def test_an_abandoned_epoch_is_not_continued(manifest):
    loader = make_loader(manifest)
    batches = loader.batches(plan_of(manifest, 0))
    for _ in range(4):  # all but the last; the batches of the next epoch are being prepared
        next(batches)
    assert not loader.has_prepared(plan_of(manifest, 1))
    assert_same(list(loader.batches(plan_of(manifest, 1))), drained(manifest, 1))


@pytest.mark.parametrize(("epoch", "first_step"), [(1, 2), (0, 0), (2, 0)])
def test_another_plan_or_step_than_expected_starts_anew(epoch, first_step, manifest):
    loader = make_loader(manifest)
    assert len(list(loader.batches(plan_of(manifest, 0)))) == 5
    assert loader.has_prepared(plan_of(manifest, 1))
    assert not loader.has_prepared(plan_of(manifest, epoch), first_step)
    assert_same(list(loader.batches(plan_of(manifest, epoch), first_step)), drained(manifest, epoch, first_step))
    if epoch + 1 < NUM_EPOCHS:
        assert_same(list(loader.batches(plan_of(manifest, epoch + 1))), drained(manifest, epoch + 1))


@pytest.mark.parametrize("num_epochs", [0, 2])
def test_an_expected_epoch_with_other_settings_starts_anew(num_epochs, manifest):
    loader = make_loader(manifest)
    list(loader.batches(plan_of(manifest, 0)))
    assert not loader.has_prepared(plan_of(manifest, 1, num_epochs))
    assert_same(list(loader.batches(plan_of(manifest, 1, num_epochs))), drained(manifest, 1))


@pytest.mark.parametrize("end", [DaliLoader.release, DaliLoader.stop])
def test_an_ended_loader_has_no_thread_and_starts_anew(end: Callable[[DaliLoader], None], manifest):
    loader = make_loader(manifest)
    list(loader.batches(plan_of(manifest, 0)))
    assert planning_threads() == 1
    end(loader)
    assert planning_threads() == 0
    assert not loader.has_prepared(plan_of(manifest, 1))
    assert_same(list(loader.batches(plan_of(manifest, 1))), drained(manifest, 1))


def test_a_loader_that_is_garbage_leaves_no_thread(manifest):
    loader = make_loader(manifest)
    list(loader.batches(plan_of(manifest, 0)))
    assert planning_threads() == 1
    del loader
    for thread in threading.enumerate():
        if thread.name == "ahead":
            gc.collect()
            thread.join(10)
    assert planning_threads() == 0


@pytest.mark.parametrize("place", [(0, 4), (1, 0), (1, 1), (1, 4)])
def test_a_damaged_file_at_the_border_costs_its_own_slots(place, drawn, tmp_path):
    folder = tmp_path / "images"
    shutil.copytree(drawn / "images" / "train", folder)
    manifest = manifest_of(folder)
    epoch, step = place
    index = int(plan_of(manifest, epoch).batch(step).indices[0])
    Path(manifest.image_paths[index]).write_bytes(b"damaged")
    loader, separate = make_loader(manifest), make_loader(manifest)
    for later in range(NUM_EPOCHS):
        found = list(loader.batches(plan_of(manifest, later)))
        assert_same(found, list(separate.batches(plan_of(manifest, later, num_epochs=0))))
        assert sum(int(batch.samples.has_failed.sum()) for batch in found) == 1
    assert loader.failures == separate.failures
    assert list(loader.failures) == [manifest.image_paths[index]]


def test_a_file_repaired_between_epochs_is_tried_in_the_first_batch(drawn, tmp_path):
    folder = tmp_path / "images"
    shutil.copytree(drawn / "images" / "train", folder)
    manifest = manifest_of(folder)
    path = Path(manifest.image_paths[int(plan_of(manifest, 1).batch(0).indices[0])])
    sound = path.read_bytes()
    path.write_bytes(b"damaged")
    loader = make_loader(manifest)
    list(loader.batches(plan_of(manifest, 0)))
    expected = loader.has_prepared(plan_of(manifest, 1))
    path.write_bytes(sound)
    assert (expected, loader.has_prepared(plan_of(manifest, 1))) == (True, False)
    assert_same(list(loader.batches(plan_of(manifest, 1))), drained(manifest, 1))
