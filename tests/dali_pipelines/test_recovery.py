"""Batches that DALI fails on: damaged files, read errors, and errors that no file causes."""

import logging
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from dali_pipelines import graphs
from dali_pipelines.config import PipelineConfig
from dali_pipelines.cpu import cpu_pipeline
from dali_pipelines.feed import FedBatch, SampleArrays
from dali_pipelines.loader import DaliLoader
from dali_pipelines.recovery import BatchRecovery
from dali_pipelines.source import KeptImages, PlannedBatch, PlannedSample, SampleError, SourceImages
from ocr.datasets.base import ValidatedOCRDataset
from ocr.datasets.kept_images import DecodedImages, ImageCache, preload_files
from ocr.datasets.manifest import Manifest
from ocr.datasets.plan import EpochPlan, SamplePlanner
from ocr.datasets.schemas import DatasetConfig
from tests.fake_gpu import fake_gpu

CPU = torch.device("cpu")
PLENTY = 10**10
CONFIG = PipelineConfig(image_size=96)
PLANNERS = {training: SamplePlanner(CONFIG, training=training, seed=3) for training in (True, False)}
"""One of each kind, as plans with different planners differ."""
BROKEN = 5


@pytest.fixture
def manifest(drawn: Path, tmp_path: Path) -> Manifest:
    """Ten images whose files the test may damage."""
    shutil.copytree(drawn / "images" / "train", tmp_path / "images")
    planner = SamplePlanner(CONFIG, training=False, seed=3)
    return ValidatedOCRDataset(DatasetConfig(image_path=str(tmp_path / "images")), planner).manifest


def epoch_plan(manifest: Manifest, training: bool, epoch: int = 0, num_epochs: int = 0) -> EpochPlan:
    return EpochPlan(manifest, PLANNERS[training], epoch=epoch, batch_size=4, num_epochs=num_epochs)


def make_loader(manifest: Manifest, kept: KeptImages | None = None, *, training: bool = True, **options) -> DaliLoader:
    images = SourceImages(manifest.image_paths, kept)
    return DaliLoader(images, CONFIG, training=training, batch_size=4, device=CPU, **options)


def run(
    loader: DaliLoader, manifest: Manifest, epoch: int = 0, num_epochs: int = 0
) -> tuple[torch.Tensor, list[PlannedSample]]:
    """Returns the images and samples of an epoch."""
    batches = list(loader.batches(epoch_plan(manifest, loader.training, epoch, num_epochs)))
    return torch.cat([batch.images for batch in batches]), [sample for batch in batches for sample in batch.samples]


def in_files(manifest: Manifest) -> None:
    return None


def encoded(manifest: Manifest) -> ImageCache:
    return ImageCache(manifest.image_paths, preload_files(manifest, PLENTY, range(len(manifest))))


def filling(manifest: Manifest) -> ImageCache:
    return ImageCache(manifest.image_paths, pixels=DecodedImages(manifest.original_sizes, PLENTY, CPU))


@pytest.mark.parametrize("keep", [in_files, encoded, filling])
def test_a_broken_file_is_named_and_costs_only_its_slot(keep, manifest, caplog):
    whole, _ = run(make_loader(manifest), manifest)
    path = Path(manifest.image_paths[BROKEN])
    path.write_bytes(path.read_bytes()[:2000])
    kept = keep(manifest)
    loader = make_loader(manifest, kept)
    with caplog.at_level(logging.WARNING):
        images, samples = run(loader, manifest)
    assert list(loader.failures) == [str(path)]
    assert f"{path}: skipped: DALI failed to process this file" in caplog.text
    (slot,) = [slot for slot, sample in enumerate(samples) if sample.is_padding]
    assert samples[slot].index == BROKEN
    assert samples[slot].has_failed
    black = torch.tensor(CONFIG.black)[:, None, None].expand_as(images[slot])
    assert torch.equal(images[slot], black)
    others = [other for other in range(len(samples)) if other != slot]
    assert torch.equal(images[others], whole[others])
    assert kept is None or kept.decoded(BROKEN) is None
    with pytest.raises(SampleError, match=path.name):
        run(make_loader(manifest, kept, skip_failures=False), manifest)


def test_levels_of_a_broken_file_are_black(manifest):
    Path(manifest.image_paths[0]).write_bytes(b"gone")
    images, samples = run(make_loader(manifest, training=False, levels=True), manifest)
    assert [sample.is_padding for sample in samples] == [True] + 9 * [False]
    assert images.dtype == torch.uint8
    assert images[0].max() == 0
    assert images[1].max() > 0


class Unsteady(ImageCache):
    """Fails to read one image at the given accesses, which are counted from 0."""

    def __init__(self, manifest: Manifest, index: int, failing: range) -> None:
        super().__init__(manifest.image_paths, preload_files(manifest, PLENTY, range(len(manifest))))
        self._index, self._failing, self._num_accesses = index, failing, 0

    def encoded(self, index: int) -> np.ndarray | None:
        if index == self._index:
            self._num_accesses += 1
            if self._num_accesses - 1 in self._failing:
                raise OSError("the share is away")
        return super().encoded(index)


@pytest.mark.parametrize("training", [True, False])
def test_a_temporary_read_error_costs_nothing(training, manifest, caplog):
    expected, _ = run(make_loader(manifest, training=training), manifest)
    loader = make_loader(manifest, Unsteady(manifest, BROKEN, range(1)), training=training, skip_failures=False)
    with caplog.at_level(logging.WARNING):
        images, _ = run(loader, manifest)
    assert torch.equal(images, expected)
    assert "redoing it sample by sample" in caplog.text
    assert not loader.failures


def test_a_permanent_read_error_is_reported_in_its_own_words(manifest):
    loader = make_loader(manifest, Unsteady(manifest, BROKEN, range(1000)))
    _, samples = run(loader, manifest)
    assert [sample.index for sample in samples if sample.has_failed] == [BROKEN]
    assert loader.failures == {manifest.image_paths[BROKEN]: "the share is away"}


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The batch sizes of the pipelines that are built from now on."""
    sizes: list[int] = []

    def note(*arguments, batch_size: int, **options):
        sizes.append(batch_size)
        return cpu_pipeline(*arguments, batch_size=batch_size, **options)

    monkeypatch.setattr(graphs, "cpu_pipeline", note)
    return sizes


def break_file(manifest: Manifest, index: int) -> bytes:
    """Cuts a file off and returns what it held."""
    path = Path(manifest.image_paths[index])
    content = path.read_bytes()
    path.write_bytes(content[:2000])
    return content


@pytest.mark.parametrize("keep", [in_files, encoded])
def test_a_file_that_failed_is_left_out_of_later_epochs(keep, manifest, built):
    whole, _ = run(make_loader(manifest), manifest)
    break_file(manifest, BROKEN)
    loader = make_loader(manifest, keep(manifest))
    built.clear()
    first_images, first_samples = run(loader, manifest)
    # A batch of 4 is redone by one pipeline of one image, which the broken file invalidates.
    assert built[:2] == [4, 1]
    assert built.count(1) <= 2
    assert built.count(4) == 2
    built.clear()
    for _ in range(2):
        images, samples = run(loader, manifest)
        assert torch.equal(images, first_images)
        assert [sample.has_failed for sample in samples] == [sample.has_failed for sample in first_samples]
        assert [sample.is_padding for sample in samples] == [sample.has_failed for sample in samples]
    assert built == []
    is_sound = torch.tensor([not sample.has_failed for sample in first_samples])
    assert is_sound.sum() == len(manifest) - 1
    assert torch.equal(first_images[is_sound], whole[is_sound])


def test_a_batch_without_its_failed_file_does_not_wait_for_a_gpu(manifest, monkeypatch):
    files = SourceImages(manifest.image_paths)
    loader = DaliLoader(files, CONFIG, training=True, batch_size=4, device=torch.device("cuda", 0))
    samples, rows = epoch_plan(manifest, training=True).batch(0), [0, 2, 3]
    monkeypatch.setattr(loader, "_ready_pipeline", lambda: None)
    with fake_gpu() as waits:
        images = torch.empty(len(rows), 3, 96, 96, dtype=torch.float16, device="cuda")
        fed = FedBatch(samples, samples.select(rows), rows, alone=[], arrays=())
        monkeypatch.setattr(loader._outputs, "next_batch", lambda *arguments: (images, fed))
        batch = loader._next_batch(1)
        assert (batch.images.device, batch.images.shape) == (images.device, (4, 3, 96, 96))
    assert batch.samples.has_failed.tolist() == [False, True, False, False]
    assert waits == []


@pytest.mark.gpu
def test_on_a_gpu_the_host_does_not_wait_for_a_batch_without_its_failed_file(manifest):
    break_file(manifest, BROKEN)
    files = SourceImages(manifest.image_paths)
    loader = DaliLoader(files, CONFIG, training=True, batch_size=4, device=torch.device("cuda", 0))
    run(loader, manifest)
    torch.cuda.set_sync_debug_mode("error")
    try:
        batches = list(loader.batches(epoch_plan(manifest, training=True)))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    failed = [sample.index for batch in batches for sample in batch.samples if sample.has_failed]
    assert failed == [BROKEN]


def test_a_batch_of_failed_files_alone_is_black(manifest, built):
    whole, _ = run(make_loader(manifest, training=False), manifest)
    for index in range(4, 8):  # the second batch
        break_file(manifest, index)
    loader = make_loader(manifest, training=False)
    run(loader, manifest)
    built.clear()
    images, samples = run(loader, manifest)
    assert built == []
    assert [sample.has_failed for sample in samples] == [4 <= index < 8 for index in range(10)]
    assert torch.equal(images[4:8], torch.tensor(CONFIG.black)[:, None, None].expand_as(images[4:8]))
    assert torch.equal(images[:4], whole[:4])
    assert torch.equal(images[8:], whole[8:])


def test_a_second_file_that_fails_in_a_batch_is_found_beside_the_first(manifest):
    break_file(manifest, 4)
    loader = make_loader(manifest, training=False)
    whole, _ = run(loader, manifest)
    break_file(manifest, 6)
    images, samples = run(loader, manifest)
    assert [sample.index for sample in samples if sample.has_failed] == [4, 6]
    assert torch.equal(images[[5, 7]], whole[[5, 7]])
    assert images[4].equal(images[6])


@pytest.mark.parametrize("is_gone", [True, False])
def test_a_file_that_comes_back_is_used_again(is_gone, manifest):
    whole, _ = run(make_loader(manifest), manifest)
    content = break_file(manifest, BROKEN)
    path = Path(manifest.image_paths[BROKEN])
    if is_gone:
        path.unlink()
    loader = make_loader(manifest)
    for _ in range(2):
        _, samples = run(loader, manifest)
        assert [sample.index for sample in samples if sample.has_failed] == [BROKEN]
    path.write_bytes(content)
    images, samples = run(loader, manifest)
    assert torch.equal(images, whole)
    assert not any(sample.has_failed for sample in samples)


class AwayForAnEpoch(ImageCache):
    """Cannot read one image until the test says so. The file itself is not on this machine."""

    is_away = True

    def encoded(self, index: int) -> np.ndarray | None:
        if index == BROKEN and self.is_away:
            raise OSError("the share is away")
        return super().encoded(index)


@pytest.mark.parametrize("num_epochs", [0, 8], ids=["alone", "with the next epoch prepared"])
def test_a_file_that_could_not_be_read_is_tried_again_next_epoch_and_then_less_often(num_epochs, manifest):
    whole, _ = run(make_loader(manifest), manifest, epoch=7)
    kept = AwayForAnEpoch(manifest.image_paths, preload_files(manifest, PLENTY, range(len(manifest))))
    loader = make_loader(manifest, kept)
    failed, goes_on = [], []
    for epoch in range(8):
        kept.is_away = epoch < 4
        goes_on.append(loader.has_prepared(epoch_plan(manifest, True, epoch, num_epochs)))
        images, samples = run(loader, manifest, epoch, num_epochs)
        failed.append(any(sample.has_failed for sample in samples))
    assert failed == 7 * [True] + [False]  # tried in epochs 0, 1, 3 and 7
    assert [epoch for epoch in range(8) if goes_on[epoch]] == ([2, 4, 5, 6] if num_epochs else [])
    assert torch.equal(images, whole)


def test_a_file_whose_state_is_unknown_is_tried_again_in_each_epoch(manifest):
    kept = AwayForAnEpoch(manifest.image_paths, preload_files(manifest, PLENTY, range(len(manifest))))
    images = SourceImages([f"s3://bucket/{index}.jpg" for index in range(len(manifest))], kept)
    loader = DaliLoader(images, CONFIG, training=True, batch_size=4, device=CPU)
    for _ in range(2):
        _, samples = run(loader, manifest)
        assert [sample.index for sample in samples if sample.has_failed] == [BROKEN]
    kept.is_away = False
    _, samples = run(loader, manifest)
    assert not any(sample.has_failed for sample in samples)


def test_an_error_that_no_file_causes_ends_the_run(manifest):
    plan = epoch_plan(manifest, training=True)

    class Unrenderable:
        """A plan whose samples cannot be rendered."""

        epoch, following = 0, None

        def __len__(self) -> int:
            return len(plan)

        def batch(self, step: int) -> PlannedBatch:
            samples = plan.batch(step)
            return replace(samples, resized_sizes=np.zeros_like(samples.resized_sizes))

    loader = make_loader(manifest)
    with pytest.raises(RuntimeError, match="sizes should be greater than 0"):
        list(loader.batches(Unrenderable()))
    assert not loader.failures


def test_on_a_gpu_a_picture_of_another_size_is_named_without_being_rendered(manifest):
    """DALI refuses it in the graph, with an error that gives no reason. Here no graph runs."""
    Image.new("RGB", (64, 48)).save(manifest.image_paths[1])
    arrays = SampleArrays(SourceImages(manifest.image_paths, stored_sizes=manifest.stored_sizes), training=False)
    on_gpu = SimpleNamespace(device=torch.device("cuda", 0), config=CONFIG)
    rendered, failures = [], {}

    def render_alone(sample: PlannedBatch) -> torch.Tensor:
        rendered.extend(sample.indices.tolist())
        return torch.ones(3, 96, 96)

    recovery = BatchRecovery(arrays, on_gpu, render_alone, failures, skip_failures=True)
    batch = recovery.redo(epoch_plan(manifest, training=False).batch(0), torch.zeros(4, 3, 96, 96), RuntimeError("#4"))
    assert rendered == [0, 2, 3]
    assert batch.samples.has_failed.tolist() == [False, True, False, False]
    height, width = manifest.stored_sizes[1]
    assert failures == {
        manifest.image_paths[
            1
        ]: f"the image is 64 x 48 pixels, expected {width} x {height}: replaced since it was checked"
    }
