"""Scaled decoding against whole decoding, on pictures whose sides no factor divides."""

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from dali_pipelines import geometry, turbojpeg
from dali_pipelines.config import AugmentationConfig, PipelineConfig
from dali_pipelines.loader import DaliLoader
from dali_pipelines.rendering import ImageArray, render, resize
from dali_pipelines.scaled import reduction, render_file
from dali_pipelines.source import PlannedSample, SampleError, SourceImages, StoredImage
from ocr.datasets.base import ValidatedOCRDataset
from ocr.datasets.kept_images import DecodedImages, ImageCache, preload_files, preload_pixels
from ocr.datasets.manifest import Manifest
from ocr.datasets.plan import EpochPlan, SamplePlanner
from ocr.datasets.schemas import DatasetConfig
from ocr.loaders.torch_workers import TorchLoader

CPU = torch.device("cpu")
SIZE = 64
CONFIG = PipelineConfig(
    image_size=SIZE, scaled_decode=True, num_threads=3, augmentation=AugmentationConfig(scale_min=0.8, scale_max=1.6)
)


def picture(height: int, width: int, seed: int = 0) -> ImageArray:
    """Returns smooth colours with some blobs, none of them symmetric, so that a shift or a mirrored axis shows."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (7, 9, 3), np.uint8))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


def encoded(pixels: ImageArray, orientation: int = 1, mode: str = "RGB", **options) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stream = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(stream, options.pop("format", "JPEG"), exif=exif, quality=95, **options)
    return stream.getvalue()


def planned(
    region_xyxy: tuple[int, int, int, int], resized_size: tuple[int, int], degrees: float = 0.0
) -> PlannedSample:
    """Returns a plan that turns the resized region about the middle of the crop."""
    height, width = resized_size
    middle = geometry.translation(SIZE / 2, SIZE / 2) @ geometry.rotation(degrees)
    matrix = middle @ geometry.translation(-width / 2, -height / 2)
    return PlannedSample(
        index=0,
        is_padding=False,
        region_xyxy=np.array(region_xyxy, np.float32),
        resized_size=resized_size,
        input_from_resized=matrix,
        input_from_original=matrix,
        colour_matrix=np.eye(3, 4, dtype=np.float32),
    )


def both(file: bytes, stored: StoredImage, sample: PlannedSample, *, training: bool) -> tuple[np.ndarray, np.ndarray]:
    """Returns the levels from scaled and from whole decoding."""
    found = render_file(file, stored, sample, CONFIG, training=training)
    whole = render(turbojpeg.decode_upright(file, stored.orientation), sample, CONFIG, training=training)
    return found.astype(int), whole.astype(int)


@pytest.mark.parametrize(
    ("region", "resized", "factor"),
    [
        ((0, 0, 400, 400), (101, 100), 1),
        ((0, 0, 400, 400), (100, 100), 2),
        ((0, 0, 403, 300), (75, 100), 2),
        ((7, 9, 407, 409), (50, 50), 4),
        ((0, 0, 4000, 800), (50, 250), 8),
        ((0, 0, 50, 50), (100, 100), 1),
    ],
)
def test_the_factor_leaves_twice_the_planned_size_on_both_axes(region, resized, factor):
    assert reduction(planned(region, resized)) == factor


@pytest.mark.parametrize("size", [(331, 517), (512, 256), (333, 269)])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_whole_images_agree_with_those_of_whole_decoding(orientation, size):
    stored = StoredImage(size, orientation)
    sample = planned((0, 0, *stored.upright_size[::-1]), geometry.letterbox_size(stored.upright_size, 57))
    assert reduction(sample) > 1
    found, whole = both(encoded(picture(*size), orientation), stored, sample, training=False)
    assert found.shape == whole.shape
    assert np.abs(found - whole).max() <= 3
    assert np.abs(found - whole).mean() < 0.5


@pytest.mark.parametrize("orientation", range(1, 9))
def test_training_crops_agree_with_those_of_whole_decoding(orientation):
    stored = StoredImage((331, 517), orientation)
    file = encoded(picture(*stored.size), orientation)
    height, width = stored.upright_size
    for region in ((0, 0, width, height), (13, 0, width, height - 6), (5, 7, width - 3, height), (6, 11, 250, 259)):
        shape = region[3] - region[1], region[2] - region[0]
        sample = planned(region, (round(shape[0] / 4.3), round(shape[1] / 4.1)), degrees=7)
        assert reduction(sample) == 2
        found, whole = both(file, stored, sample, training=True)
        difference = np.abs(found - whole)
        # At the border of the image, black may begin half a pixel earlier: see `scaled._training_crop`.
        inside = cv2.erode((whole.min(axis=2) > 0).astype(np.uint8), np.ones((5, 5)), borderValue=0) > 0
        assert inside.mean() > 0.5
        assert difference[inside].max() <= 4
        assert difference[inside].mean() < 0.5
        assert (difference.max(axis=2) > 4).mean() < 0.08


def test_a_shift_of_one_reduced_pixel_would_be_noticed():
    stored = StoredImage((331, 517), 1)
    sample = planned((6, 11, 250, 259), (58, 60))
    file = encoded(picture(*stored.size))
    found, _ = both(file, stored, sample, training=True)
    moved = replace(sample, region_xyxy=sample.region_xyxy + 2)
    _, whole = both(file, stored, moved, training=True)
    assert np.abs(found - whole).mean() > 1


def test_resizing_a_part_that_ends_within_a_pixel_worked_by_hand():
    levels = np.repeat(np.array([0, 100, 200], np.uint8)[None, :, None], 3, axis=2)
    # From 2.5 pixels to one: the triangle about 1.25 with a radius of 2.5, the outermost pixels repeated beyond the border.
    centres = np.arange(-2, 5) + 0.5
    weights = np.maximum(0, 1 - np.abs(centres - 1.25) / 2.5)
    expected = weights @ levels[0, np.clip(np.arange(-2, 5), 0, 2), 0] / weights.sum()
    found = resize(levels, (1, 1), (1.0, 2.5))
    assert abs(int(found[0, 0, 0]) - expected) <= 1


@pytest.mark.parametrize(
    ("mode", "options"),
    [("L", {}), ("CMYK", {}), ("RGB", {"format": "PNG"}), ("RGB", {"progressive": True}), ("RGB", {"subsampling": 0})],
    ids=["grey", "CMYK", "PNG", "progressive", "4:4:4"],
)
def test_other_kinds_of_files_agree_with_whole_decoding(mode, options):
    stored = StoredImage((331, 517), 1)
    sample = planned((0, 0, 517, 331), (40, 63))
    found, whole = both(encoded(picture(*stored.size), mode=mode, **options), stored, sample, training=False)
    is_whole = mode == "CMYK" or options.get("format") == "PNG"
    assert np.abs(found - whole).max() <= (0 if is_whole else 3)


def test_a_replaced_and_a_damaged_file_are_refused():
    sample, stored = planned((0, 0, 517, 331), (40, 63)), StoredImage((331, 517), 1)
    with pytest.raises(ValueError, match=r"516 x 331 pixels, expected 517 x 331: replaced since it was checked"):
        render_file(encoded(picture(331, 516)), stored, sample, CONFIG, training=False)
    file = encoded(picture(331, 517))
    with pytest.raises(ValueError, match=r"[Pp]remature end"):
        render_file(file[: len(file) // 2], stored, sample, CONFIG, training=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for orientation in range(1, 9):
        file = encoded(picture(201 + 37 * orientation, 517, orientation), orientation)
        (tmp_path / f"{orientation}.jpg").write_bytes(file)
    (tmp_path / "cmyk.jpg").write_bytes(encoded(picture(331, 517), mode="CMYK"))
    (tmp_path / "png.png").write_bytes(encoded(picture(331, 517), format="PNG"))
    return tmp_path


def by_loader(
    name: str,
    folder: Path,
    config: PipelineConfig,
    training: bool,
    keep: Callable[[Manifest], ImageCache] | None = None,
) -> torch.Tensor:
    dataset = ValidatedOCRDataset(
        DatasetConfig(image_path=str(folder)), SamplePlanner(config, training=training, seed=1)
    )
    manifest = dataset.manifest
    plan = EpochPlan(manifest, dataset.planner, epoch=0, batch_size=4)
    kept = dataset.kept_images = None if keep is None else keep(manifest)
    if name == "torch":
        loader = TorchLoader(dataset, num_workers=0, device=CPU, skip_failures=False)
    else:
        images = SourceImages(manifest.image_paths, kept, None, manifest.stored_sizes, manifest.orientations)
        loader = DaliLoader(images, config, training=training, batch_size=4, device=CPU, skip_failures=False)
    found = torch.cat([batch.images.clone() for batch in loader.batches(plan)])
    loader.release()
    return found


@pytest.mark.parametrize("training", [True, False])
def test_both_loaders_give_the_same_pixels(training, folder):
    by_dali = by_loader("dali", folder, CONFIG, training)
    assert torch.equal(by_dali, by_loader("torch", folder, CONFIG, training))
    whole = by_loader("dali", folder, CONFIG.model_copy(update={"scaled_decode": False}), training)
    assert not torch.equal(by_dali, whole)
    assert (by_dali - whole).abs().mean() * 58 < 1


def files_in_memory(manifest: Manifest) -> ImageCache:
    """Keeps every second file."""
    return ImageCache(manifest.image_paths, preload_files(manifest, 10**9, range(0, len(manifest), 2)))


def pixels_in_memory(manifest: Manifest) -> ImageCache:
    """Keeps pixels, which scaled decoding does not take: they are those of the whole image."""
    pixels = DecodedImages(manifest.original_sizes, 10**9, CPU)
    preload_pixels(pixels, manifest, range(0, len(manifest), 2), use_turbojpeg=True)
    return ImageCache(manifest.image_paths, pixels=pixels)


@pytest.mark.parametrize("name", ["dali", "torch"])
@pytest.mark.parametrize("keep", [files_in_memory, pixels_in_memory])
def test_images_in_memory_change_no_pixel(keep, name, folder):
    expected = by_loader("torch", folder, CONFIG, training=False)
    assert torch.equal(by_loader(name, folder, CONFIG, training=False, keep=keep), expected)


def test_a_damaged_file_is_named(folder):
    dataset = ValidatedOCRDataset(DatasetConfig(image_path=str(folder)), SamplePlanner(CONFIG, training=False, seed=1))
    manifest = dataset.manifest
    path = folder / "5.jpg"
    path.write_bytes(path.read_bytes()[:3000])
    images = SourceImages(manifest.image_paths, None, None, manifest.stored_sizes, manifest.orientations)
    plan = EpochPlan(manifest, dataset.planner, epoch=0, batch_size=4)
    loader = DaliLoader(images, CONFIG, training=False, batch_size=4, device=CPU)
    batches = list(loader.batches(plan))
    assert list(loader.failures) == [str(path)]
    assert sum(sample.has_failed for batch in batches for sample in batch.samples) == 1
    loader.release()
    strict = DaliLoader(images, CONFIG, training=False, batch_size=4, device=CPU, skip_failures=False)
    with pytest.raises(SampleError, match=r"5\.jpg"):
        list(strict.batches(plan))
    strict.release()
