"""Images from files, from file content in memory and from pixels in memory, through the real DALI pipeline (CPU)."""

import gc
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dali_pipelines.config import PipelineConfig
from dali_pipelines.loader import DaliLoader
from dali_pipelines.source import PlannedBatch, SourceImages
from ocr.datasets.base import ValidatedOCRDataset
from ocr.datasets.kept_images import DecodedImages, ImageCache, preload_files, preload_pixels
from ocr.datasets.manifest import Manifest
from ocr.datasets.plan import EpochPlan, SamplePlanner
from ocr.datasets.schemas import DatasetConfig
from ocr.loaders.torch_workers import TorchLoader

CPU = torch.device("cpu")
PLENTY = 10**10
CONFIG = PipelineConfig(image_size=160)


@pytest.fixture(scope="module")
def folder(sroie: Path, odd_jpegs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Receipts, odd files (EXIF 1 to 8, CMYK, grey, progressive, rare samplings ...) and a PNG."""
    folder = tmp_path_factory.mktemp("images")
    receipts = sorted((sroie / "images" / "val").glob("*.jpg"))[:3]
    odd = [path for path in sorted(odd_jpegs.glob("*.jpg")) if not path.name.startswith("blank_6000")]
    for path in receipts + odd:
        shutil.copy(path, folder / path.name)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 200, 3), np.uint8)).save(folder / "drawn.png")
    return folder


@pytest.fixture(scope="module")
def manifest(folder: Path) -> Manifest:
    planner = SamplePlanner(CONFIG, training=False, seed=3)
    return ValidatedOCRDataset(DatasetConfig(image_path=str(folder)), planner).manifest


def copied(manifest_folder: Path, target: Path) -> ValidatedOCRDataset:
    """Returns a data set with a copy of the files, which the test may damage."""
    shutil.copytree(manifest_folder, target)
    return ValidatedOCRDataset(DatasetConfig(image_path=str(target)), SamplePlanner(CONFIG, training=True, seed=3))


def epoch_plan(manifest: Manifest, *, training: bool, epoch: int = 0) -> EpochPlan:
    return EpochPlan(manifest, SamplePlanner(CONFIG, training=training, seed=3), epoch=epoch, batch_size=4)


def make_loader(manifest: Manifest, kept: ImageCache | None = None, *, training: bool, **kwargs) -> DaliLoader:
    images = SourceImages(manifest.image_paths, kept)
    return DaliLoader(images, CONFIG, training=training, batch_size=4, device=CPU, **kwargs)


def images_of(loader: DaliLoader | TorchLoader, plan: EpochPlan) -> torch.Tensor:
    return torch.cat([batch.images for batch in loader.batches(plan)])


def encoded(manifest: Manifest) -> ImageCache:
    return ImageCache(manifest.image_paths, preload_files(manifest, PLENTY, range(len(manifest))))


def decoded(manifest: Manifest) -> ImageCache:
    pixels = DecodedImages(manifest.original_sizes, PLENTY, CPU)
    preload_pixels(pixels, manifest, range(len(manifest)), use_turbojpeg=True)
    return ImageCache(manifest.image_paths, pixels=pixels)


def mixed(manifest: Manifest) -> ImageCache:
    """Keeps one image of three encoded and one decoded, so that every batch has all kinds."""
    pixels = DecodedImages(manifest.original_sizes, PLENTY, CPU, range(2, len(manifest), 3))
    preload_pixels(pixels, manifest, range(len(manifest)), use_turbojpeg=True)
    return ImageCache(manifest.image_paths, preload_files(manifest, PLENTY, range(1, len(manifest), 3)), pixels)


def filling(manifest: Manifest, budget: int = PLENTY) -> ImageCache:
    return ImageCache(manifest.image_paths, pixels=DecodedImages(manifest.original_sizes, budget, CPU))


@pytest.fixture(scope="module")
def from_files(manifest: Manifest) -> dict[bool, torch.Tensor]:
    return {
        training: images_of(make_loader(manifest, training=training), epoch_plan(manifest, training=training))
        for training in (True, False)
    }


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", [encoded, decoded, mixed, filling])
def test_kept_images_give_the_pixels_of_the_files(kind, training, manifest, from_files):
    assert len(manifest) > 30
    found = images_of(make_loader(manifest, kind(manifest), training=training), epoch_plan(manifest, training=training))
    assert torch.equal(found, from_files[training])


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("kind", [encoded, decoded, mixed, filling])
def test_the_torch_loader_takes_kept_images_too(kind, num_workers, manifest):
    planner = SamplePlanner(CONFIG, training=True, seed=3)
    plan = epoch_plan(manifest, training=True)
    results = []
    for kept in (None, kind(manifest)):
        dataset = ValidatedOCRDataset(DatasetConfig(image_path="-"), planner, manifest=manifest)
        dataset.kept_images = kept
        loader = TorchLoader(dataset, num_workers=num_workers, device=CPU, skip_failures=False)
        results.append(images_of(loader, plan))
        loader.release()
    assert torch.equal(*results)


def break_all(folder: Path) -> None:
    for path in folder.iterdir():
        path.write_bytes(b"gone")


@pytest.mark.parametrize("name", ["dali", "torch"])
@pytest.mark.parametrize("kind", [encoded, decoded])
def test_preloaded_images_need_no_file(kind, name, folder, tmp_path):
    dataset = copied(folder, tmp_path / "images")
    dataset.kept_images = kind(dataset.manifest)
    plan = epoch_plan(dataset.manifest, training=True)

    def run() -> torch.Tensor:
        if name == "torch":
            return images_of(TorchLoader(dataset, num_workers=0, device=CPU, skip_failures=False), plan)
        return images_of(make_loader(dataset.manifest, dataset.kept_images, training=True, skip_failures=False), plan)

    expected = run()
    break_all(tmp_path / "images")
    assert torch.equal(run(), expected)


def test_later_epochs_of_decoded_images_read_no_file_and_differ(folder, tmp_path):
    dataset = copied(folder, tmp_path / "images")
    manifest = dataset.manifest
    uncached = [
        images_of(make_loader(manifest, training=True), epoch_plan(manifest, training=True, epoch=epoch))
        for epoch in range(2)
    ]
    kept = filling(manifest)
    loader = make_loader(manifest, kept, training=True, skip_failures=False)
    assert torch.equal(images_of(loader, epoch_plan(manifest, training=True)), uncached[0])
    assert kept.num_images == len(manifest)
    assert kept.num_bytes == 3 * np.prod(manifest.original_sizes, axis=1).sum()
    break_all(tmp_path / "images")
    assert torch.equal(images_of(loader, epoch_plan(manifest, training=True, epoch=1)), uncached[1])
    assert not torch.equal(*uncached)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_workers_share_decoded_images(num_workers, folder, tmp_path):
    dataset = copied(folder, tmp_path / "images")
    kept = filling(dataset.manifest)
    dataset.kept_images = kept
    loader = TorchLoader(dataset, num_workers=num_workers, device=CPU, skip_failures=False)
    images_of(loader, epoch_plan(dataset.manifest, training=True))
    assert kept.num_images == len(dataset.manifest)
    break_all(tmp_path / "images")
    images = images_of(loader, epoch_plan(dataset.manifest, training=True, epoch=1))
    loader.release()
    assert len(images) == len(dataset.manifest)
    by_dali = images_of(
        make_loader(dataset.manifest, kept, training=True), epoch_plan(dataset.manifest, training=True, epoch=1)
    )
    assert (images - by_dali).abs().mean() * 58 < 0.5


def test_images_beyond_the_budget_are_read_in_each_epoch(manifest, from_files):
    budget = int(3 * np.prod(manifest.original_sizes[: len(manifest) // 2], axis=1).sum())
    kept = filling(manifest, budget)
    loader = make_loader(manifest, kept, training=True)
    for _ in range(2):
        assert torch.equal(images_of(loader, epoch_plan(manifest, training=True)), from_files[True])
    assert kept.num_images == len(manifest) // 2
    assert kept.num_bytes == budget


def test_an_abandoned_epoch_keeps_the_images_it_returned(manifest, from_files):
    kept = filling(manifest)
    loader = make_loader(manifest, kept, training=True)
    plan = epoch_plan(manifest, training=True)
    next(iter(loader.batches(plan)))
    assert kept.num_images >= 4  # the threads may have rendered images of the next batches too
    assert torch.equal(images_of(loader, plan), from_files[True])
    assert kept.num_images == len(manifest)


@pytest.mark.parametrize("kind", [None, mixed])
@pytest.mark.parametrize("name", ["dali", "torch"])
def test_levels_are_the_images_before_normalisation(name, kind, manifest, from_files):
    kept = kind(manifest) if kind is not None else None
    plan = epoch_plan(manifest, training=False)
    planner = SamplePlanner(CONFIG, training=False, seed=3)
    dataset = ValidatedOCRDataset(DatasetConfig(image_path="-"), planner, manifest=manifest)
    dataset.kept_images = kept
    if name == "dali":
        loader, expected = make_loader(manifest, kept, training=False, levels=True), from_files[False]
    else:
        loader, plain = (
            TorchLoader(dataset, num_workers=0, device=CPU, skip_failures=False, levels=levels)
            for levels in (True, False)
        )
        expected = images_of(plain, plan)
    levels = images_of(loader, plan)
    assert levels.dtype == torch.uint8
    assert levels.shape == (len(manifest), 3, 160, 160)
    assert levels.is_contiguous()
    mean, std = (torch.tensor(values)[:, None, None] for values in (CONFIG.mean, CONFIG.std))
    torch.testing.assert_close((levels - mean) / std, expected, atol=1e-6, rtol=1e-6)
    height, width = plan.batch(0)[0].resized_size
    assert levels[0, :, height:].sum() + levels[0, :, :, width:].sum() == 0


def test_levels_are_refused_in_training(manifest):
    with pytest.raises(ValueError, match="levels=True gives evaluation inputs"):
        make_loader(manifest, training=True, levels=True)
    dataset = ValidatedOCRDataset(
        DatasetConfig(image_path="-"), SamplePlanner(CONFIG, training=True, seed=3), manifest=manifest
    )
    with pytest.raises(ValueError, match="levels=True gives evaluation inputs"):
        TorchLoader(dataset, num_workers=0, device=CPU, skip_failures=False, levels=True)


def num_threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


def ends_with(expected: int) -> bool:
    """Returns whether that many threads are left soon: the system may take a moment to remove one that has been joined."""
    deadline = time.monotonic() + 10
    while num_threads() > expected and time.monotonic() < deadline:
        time.sleep(0.01)
    return num_threads() == expected


def test_a_loader_has_threads_only_from_its_first_batch_to_its_release(manifest, from_files):
    plan = epoch_plan(manifest, training=False)
    kept = mixed(manifest)
    gc.collect()  # the loaders of other tests
    before = num_threads()
    loader = make_loader(manifest, kept, training=False)
    assert num_threads() == before
    for _ in range(2):
        assert torch.equal(images_of(loader, plan), from_files[False])
        assert num_threads() > before
        loader.release()
        assert ends_with(before)
    abandoned = loader.batches(plan)
    next(abandoned)
    loader.release()
    assert ends_with(before)


@pytest.mark.gpu
@pytest.mark.parametrize("place", ["cpu", "cuda"])
@pytest.mark.parametrize("training", [True, False])
def test_on_a_gpu_kept_images_agree_with_files(training, place, manifest):
    device = torch.device("cuda", 0)

    def run(kept: ImageCache | None, epoch: int) -> torch.Tensor:
        images = SourceImages(manifest.image_paths, kept)
        loader = DaliLoader(images, CONFIG, training=training, batch_size=4, device=device)
        return images_of(loader, epoch_plan(manifest, training=training, epoch=epoch))

    half = int(3 * np.prod(manifest.original_sizes[: len(manifest) // 2], axis=1).sum())
    from_files = [run(None, epoch).float() for epoch in range(3)]
    for budget in (PLENTY, half):
        pixels = DecodedImages(manifest.original_sizes, budget, torch.device(place))
        kept = ImageCache(manifest.image_paths, preload_files(manifest, PLENTY, range(0, len(manifest), 3)), pixels)
        for epoch in range(3):
            # Not bit for bit: JPEG engines and CUDA cores share a batch (hw_decoder_load), and their pixels may differ.
            difference = (run(kept, epoch).float() - from_files[epoch]).abs().flatten(1)
            assert difference.mean(dim=1).max() * 58 < 0.5
        assert kept.pixels.num_images == pixels.num_places


def planning_threads() -> int:
    """Returns the number of threads that plan. Those of loaders that are garbage by now get a moment to end."""
    gc.collect()
    for thread in threading.enumerate():
        if thread.name == "ahead":
            thread.join(0.2)
    return sum(thread.name == "ahead" for thread in threading.enumerate())


def test_a_thread_plans_ahead_only_during_an_iteration(manifest):
    loader, plan = make_loader(manifest, training=True), epoch_plan(manifest, training=True)
    for _ in loader.batches(plan):
        pass
    assert planning_threads() == 0
    batches = loader.batches(plan)
    next(batches)
    assert planning_threads() == 1
    batches.close()
    assert planning_threads() == 0
    next(loader.batches(plan))  # abandoned at once
    assert planning_threads() == 0


@pytest.mark.parametrize("kind", ["dali", "torch"])
def test_a_release_in_the_middle_ends_the_iteration(kind, manifest):
    if kind == "dali":
        loader: DaliLoader | TorchLoader = make_loader(manifest, training=True)
    else:
        planner = SamplePlanner(CONFIG, training=True, seed=3)
        dataset = ValidatedOCRDataset(DatasetConfig(image_path="-"), planner, manifest=manifest)
        loader = TorchLoader(dataset, num_workers=0, device=CPU, skip_failures=False)
    plan = epoch_plan(manifest, training=True)
    whole = images_of(loader, plan)
    batches = loader.batches(plan)
    next(batches)
    loader.release()
    assert planning_threads() == 0
    assert list(batches) == []
    assert torch.equal(images_of(loader, plan), whole)


def test_a_later_iteration_ends_an_earlier_one(manifest, from_files):
    loader, plan = make_loader(manifest, training=True), epoch_plan(manifest, training=True)
    earlier = loader.batches(plan)
    next(earlier)
    later = loader.batches(plan)
    images = [next(later).images]
    assert list(earlier) == []
    images += [batch.images for batch in later]
    assert torch.equal(torch.cat(images), from_files[True])


def test_an_error_of_the_plan_reaches_the_consumer(manifest):
    whole = epoch_plan(manifest, training=True)

    class BrokenPlan:
        epoch, following = 0, None

        def __len__(self) -> int:
            return len(whole)

        def batch(self, step: int) -> PlannedBatch:
            if step == 3:
                raise ValueError("no such step")
            return whole.batch(step)

    loader = make_loader(manifest, training=True)
    with pytest.raises(ValueError, match="no such step"):
        list(loader.batches(BrokenPlan()))
    assert planning_threads() == 0
