"""Images from files, from their content in memory and from pixels in memory, through the real DALI pipeline (CPU)."""

import gc
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dali_pipelines.config import PipelineConfig
from dali_pipelines.loader import DaliLoader
from dali_pipelines.source import PlannedSample, SampleError, SourceImages
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
    """A data set of its own files, to be broken."""
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
    """Of each three images one in a file, one encoded, one decoded: every batch has all kinds."""
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
        dataset.keep_images(kept)
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
    dataset.keep_images(kind(dataset.manifest))
    plan = epoch_plan(dataset.manifest, training=True)

    def run() -> torch.Tensor:
        if name == "torch":
            return images_of(TorchLoader(dataset, num_workers=0, device=CPU, skip_failures=False), plan)
        return images_of(make_loader(dataset.manifest, dataset.kept_images, training=True, skip_failures=False), plan)

    expected = run()
    break_all(tmp_path / "images")
    assert torch.equal(run(), expected)


def test_later_epochs_of_the_decoded_cache_read_no_file_and_are_augmented_anew(folder, tmp_path):
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
def test_workers_fill_the_decoded_cache_for_each_other(num_workers, folder, tmp_path):
    dataset = copied(folder, tmp_path / "images")
    kept = filling(dataset.manifest)
    dataset.keep_images(kept)
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


def test_what_does_not_fit_is_read_in_each_epoch(manifest, from_files):
    budget = int(3 * np.prod(manifest.original_sizes[: len(manifest) // 2], axis=1).sum())
    kept = filling(manifest, budget)
    loader = make_loader(manifest, kept, training=True)
    for _ in range(2):
        assert torch.equal(images_of(loader, epoch_plan(manifest, training=True)), from_files[True])
    assert kept.num_images == len(manifest) // 2
    assert kept.num_bytes == budget


def test_an_abandoned_first_epoch_keeps_what_it_handed_out(manifest, from_files):
    kept = filling(manifest)
    loader = make_loader(manifest, kept, training=True)
    plan = epoch_plan(manifest, training=True)
    next(iter(loader.batches(plan)))
    assert kept.num_images == 4
    assert torch.equal(images_of(loader, plan), from_files[True])
    assert kept.num_images == len(manifest)


@pytest.mark.parametrize("kind", [encoded, mixed, filling])
def test_a_broken_file_is_named_wherever_it_is_kept(kind, folder, tmp_path, caplog):
    dataset = copied(folder, tmp_path / "images")
    manifest = dataset.manifest
    whole = images_of(make_loader(manifest, training=True), epoch_plan(manifest, training=True))
    index = next(i for i, name in enumerate(manifest.filenames) if name == "subsampling_422.jpg")
    broken = Path(manifest.image_paths[index])
    broken.write_bytes(broken.read_bytes()[:2000])
    with caplog.at_level(logging.WARNING):
        kept = kind(manifest)
        loader = make_loader(manifest, kept, training=True)
        plan = epoch_plan(manifest, training=True)
        batches = list(loader.batches(plan))
    assert list(loader.failures) == [str(broken)]
    assert str(broken) in caplog.text
    images = torch.cat([batch.images for batch in batches])
    samples = [sample for batch in batches for sample in batch.samples]
    (slot,) = [slot for slot, sample in enumerate(samples) if sample.is_padding]
    assert samples[slot].index == index
    black = torch.tensor(CONFIG.black)[:, None, None].expand_as(images[slot])
    assert torch.equal(images[slot], black)
    others = [other for other in range(len(samples)) if other != slot]
    assert torch.equal(images[others], whole[others])
    assert kept.decoded(index) is None
    with pytest.raises(SampleError, match=r"subsampling_422\.jpg"):
        images_of(make_loader(manifest, kept, training=True, skip_failures=False), plan)


@pytest.mark.parametrize("kind", [None, mixed])
@pytest.mark.parametrize("name", ["dali", "torch"])
def test_levels_are_the_normalised_images_before_normalisation(name, kind, manifest, from_files):
    kept = kind(manifest) if kind is not None else None
    plan = epoch_plan(manifest, training=False)
    planner = SamplePlanner(CONFIG, training=False, seed=3)
    dataset = ValidatedOCRDataset(DatasetConfig(image_path="-"), planner, manifest=manifest)
    dataset.keep_images(kept)
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


def test_levels_of_a_broken_file_are_black(folder, tmp_path):
    manifest = copied(folder, tmp_path / "images").manifest
    Path(manifest.image_paths[0]).write_bytes(b"gone")
    batch = next(make_loader(manifest, training=False, levels=True).batches(epoch_plan(manifest, training=False)))
    assert batch.samples[0].is_padding
    assert batch.images.dtype == torch.uint8
    assert batch.images[0].max() == 0
    assert batch.images[1].max() > 0


def test_levels_of_training_are_refused(manifest):
    with pytest.raises(ValueError, match="levels=True gives evaluation inputs"):
        make_loader(manifest, training=True, levels=True)
    dataset = ValidatedOCRDataset(
        DatasetConfig(image_path="-"), SamplePlanner(CONFIG, training=True, seed=3), manifest=manifest
    )
    with pytest.raises(ValueError, match="levels=True gives evaluation inputs"):
        TorchLoader(dataset, num_workers=0, device=CPU, skip_failures=False, levels=True)


def num_threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


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
        assert num_threads() == before
    abandoned = loader.batches(plan)
    next(abandoned)
    loader.release()
    assert num_threads() == before


@pytest.mark.gpu
@pytest.mark.parametrize("place", ["cpu", "cuda"])
@pytest.mark.parametrize("training", [True, False])
def test_a_gpu_starts_from_kept_images_as_from_files(training, place, manifest):
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


class Unsteady(ImageCache):
    """File content that cannot be read when it is asked for one of these times, counted for each image."""

    def __init__(self, manifest: Manifest, index: int, times: range) -> None:
        super().__init__(manifest.image_paths, preload_files(manifest, PLENTY, range(len(manifest))))
        self._index, self._times, self._num_asked = index, times, 0

    def encoded(self, index: int) -> np.ndarray | None:
        if index == self._index:
            self._num_asked += 1
            if self._num_asked - 1 in self._times:
                raise OSError("the share is away")
        return super().encoded(index)


@pytest.mark.parametrize("training", [True, False])
def test_a_read_error_that_passes_costs_nothing(training, manifest, from_files, caplog):
    loader = make_loader(manifest, Unsteady(manifest, 5, range(1)), training=training, skip_failures=False)
    with caplog.at_level(logging.WARNING):
        found = images_of(loader, epoch_plan(manifest, training=training))
    assert torch.equal(found, from_files[training])
    assert "redoing it sample by sample" in caplog.text
    assert not loader.failures


def test_a_read_error_that_stays_is_told_in_its_own_words(manifest):
    kept = Unsteady(manifest, 5, range(1000))
    loader = make_loader(manifest, kept, training=True)
    batches = list(loader.batches(epoch_plan(manifest, training=True)))
    assert [s.index for batch in batches for s in batch.samples if s.has_failed] == [5]
    assert loader.failures == {manifest.image_paths[5]: "the share is away"}


def test_a_fault_that_is_no_files_ends_the_run(manifest):
    plan = epoch_plan(manifest, training=True)

    class Unwarpable:
        """Of this plan no sample can be rendered."""

        epoch = 0

        def __len__(self) -> int:
            return len(plan)

        def batch(self, step: int) -> list[PlannedSample]:
            return [replace(sample, resized_size=(0, 0)) for sample in plan.batch(step)]

    loader = make_loader(manifest, training=True)
    with pytest.raises(RuntimeError, match="python_function"):
        list(loader.batches(Unwarpable()))
    assert not loader.failures
