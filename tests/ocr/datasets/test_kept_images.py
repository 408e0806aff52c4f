import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from dali_pipelines.config import PipelineConfig
from ocr.datasets.base import ValidatedOCRDataset
from ocr.datasets.image_source import ImageFiles
from ocr.datasets.kept_images import DecodedImages, ImageCache, keep_images, preload_files
from ocr.datasets.plan import SamplePlanner
from ocr.datasets.schemas import CacheConfig, DatasetConfig

CPU = torch.device("cpu")
PLENTY = 10**9


def make_dataset(folder: Path, **kwargs) -> ValidatedOCRDataset:
    planner = SamplePlanner(PipelineConfig(), training=False, seed=0)
    return ValidatedOCRDataset(DatasetConfig(image_path=str(folder), **kwargs), planner)


def keep(dataset: ValidatedOCRDataset, ram_budget: int = PLENTY, **kwargs) -> ImageCache | None:
    return keep_images(dataset.config, dataset.manifest, device=CPU, ram_budget=ram_budget, device_budget=0, **kwargs)


@pytest.fixture
def turned(odd_jpegs: Path, tmp_path: Path) -> Path:
    """The same picture, 300 x 400 pixels, stored in the eight EXIF orientations."""
    for number in range(1, 9):
        shutil.copy(odd_jpegs / f"exif_{number}.jpg", tmp_path)
    return tmp_path


def picture(height: int, width: int, level: int) -> torch.Tensor:
    return torch.full((height, width, 3), level, dtype=torch.uint8)


def test_images_are_stored_consecutively_within_the_budget():
    # 2 x 3, 1 x 1 and 4 x 5 pixels take 18, 3 and 60 bytes; 80 bytes hold the first two.
    images = DecodedImages([(2, 3), (1, 1), (4, 5)], 80, CPU)
    assert (images.num_places, images.capacity, images.num_images, images.num_bytes) == (2, 21, 0, 0)
    assert [images.wants(index) for index in range(3)] == [True, True, False]
    images.keep(1, picture(1, 1, 7))
    assert images.get(0) is None
    assert torch.equal(images.get(1), picture(1, 1, 7))
    assert not images.wants(1)
    assert images.wants_any()
    images.keep(0, picture(2, 3, 9))
    assert torch.equal(images.get(0), picture(2, 3, 9))
    assert torch.equal(images.get(1), picture(1, 1, 7))
    assert (images.num_images, images.num_bytes) == (2, 21)
    assert not images.wants_any(), "the third image has no place"
    with pytest.raises(ValueError, match="no place within the budget"):
        images.keep(2, picture(4, 5, 1))


def test_places_go_to_the_given_indices_in_their_order():
    images = DecodedImages([(2, 3), (1, 1), (4, 5)], 63, CPU, indices=[2, 1])
    assert [images.wants(index) for index in range(3)] == [False, True, True]


@pytest.mark.parametrize(("sizes", "budget"), [([], 10), ([(2, 3)], 0), ([(2, 3)], -1)])
def test_no_image_or_no_budget_is_an_empty_cache(sizes, budget):
    images = DecodedImages(sizes, budget, CPU)
    assert (images.num_places, images.capacity, images.num_images, images.num_bytes) == (0, 0, 0, 0)
    assert not any(images.wants(index) for index in range(len(sizes)))
    assert not images.wants_any()


def test_an_image_of_another_size_is_not_kept_and_named(caplog):
    cache = ImageCache(["a.jpg"], pixels=DecodedImages([(2, 3)], PLENTY, CPU))
    cache.keep(0, picture(3, 2, 1))
    assert cache.decoded(0) is None
    assert "a.jpg: not kept in memory: (H, W, 3) is (3, 2, 3); expected (2, 3, 3)" in caplog.text


@pytest.mark.parametrize("image_format", ["encoded", "decoded"])
def test_preloaded_images_are_upright_and_counted(image_format, turned, caplog):
    dataset = make_dataset(turned, preload_images=True, cache_config=CacheConfig(image_format=image_format))
    from_files = [dataset.load_image(index) for index in range(8)]
    with caplog.at_level(logging.INFO, logger="ocr.datasets.kept_images"):
        kept = keep(dataset)
    assert caplog.messages[0] == "Preloaded 8/8 images into RAM (100.0%)"
    num_bytes = (
        sum(path.stat().st_size for path in turned.iterdir()) if image_format == "encoded" else 8 * 300 * 400 * 3
    )
    assert (kept.num_images, kept.num_bytes) == (8, num_bytes)
    assert caplog.messages[1] == f"Preloaded images take {num_bytes / 1e6:.1f} MB"
    shutil.rmtree(turned)
    dataset.kept_images = kept
    for index, expected in enumerate(from_files):
        found = dataset.load_image(index)
        np.testing.assert_array_equal(found.image_array, expected.image_array)
        assert found.image_array.shape == (300, 400, 3)
        assert (found.raw_width, found.raw_height, found.orientation) == (
            expected.raw_width,
            expected.raw_height,
            expected.orientation,
        )


@pytest.mark.parametrize(("image_format", "num_bytes"), [("encoded", None), ("decoded", 3 * 300 * 400 * 3)])
def test_a_budget_preloads_the_first_images(image_format, num_bytes, turned, caplog):
    dataset = make_dataset(turned, preload_images=True, cache_config=CacheConfig(image_format=image_format))
    first = [Path(path).stat().st_size for path in dataset.manifest.image_paths[:3]]
    num_bytes = num_bytes or sum(first)
    with caplog.at_level(logging.INFO, logger="ocr.datasets.kept_images"):
        kept = keep(dataset, ram_budget=num_bytes)
    assert caplog.messages[0] == "Preloaded 3/8 images into RAM (37.5%)"
    assert (kept.num_images, kept.num_bytes) == (3, num_bytes)
    get = kept.encoded if image_format == "encoded" else kept.decoded
    assert [get(index) is not None for index in range(8)] == [True] * 3 + [False] * 5


def test_a_rank_preloads_its_own_images(turned, caplog):
    dataset = make_dataset(turned, preload_images=True)
    with caplog.at_level(logging.INFO, logger="ocr.datasets.kept_images"):
        kept = keep(dataset, indices=range(1, 8, 2))
    assert caplog.messages[0] == "Preloaded 4/4 images into RAM (100.0%)"
    assert [kept.encoded(index) is not None for index in range(8)] == [False, True] * 4


@pytest.mark.parametrize(
    ("image_format", "damage"), [("encoded", "missing"), ("decoded", "missing"), ("decoded", "cut")]
)
def test_a_file_that_cannot_be_read_is_named_and_left_to_the_loader(image_format, damage, turned, caplog):
    dataset = make_dataset(turned, preload_images=True, cache_config=CacheConfig(image_format=image_format))
    broken = Path(dataset.manifest.image_paths[3])
    if damage == "missing":
        broken.unlink()
    else:
        broken.write_bytes(broken.read_bytes()[:1000])
    with caplog.at_level(logging.INFO, logger="ocr.datasets.kept_images"):
        kept = keep(dataset)
    assert caplog.messages[0].startswith(f"{broken}: not preloaded: ")
    assert caplog.messages[1] == "Preloaded 7/8 images into RAM (87.5%)"
    assert kept.encoded(3) is kept.decoded(3) is None
    dataset.kept_images = kept
    with pytest.raises((OSError, ValueError), match=broken.name):
        dataset.load_image(3)


def test_without_settings_nothing_is_kept_and_no_file_is_asked(turned, monkeypatch):
    dataset, asked = make_dataset(turned), []
    monkeypatch.setattr(ImageFiles, "signature", lambda images, index: asked.append(index))
    assert keep(dataset) is None
    assert not asked
    assert keep(make_dataset(turned, preload_images=True, cache_config=CacheConfig(cache_images=False))) is None


@pytest.mark.parametrize("preload", [False, True])
def test_the_decoded_cache_is_empty_at_first_and_filled_by_rendering(preload, turned, caplog):
    dataset = make_dataset(turned, preload_images=preload, cache_config=CacheConfig(cache_decoded_images=True))
    with caplog.at_level(logging.INFO, logger="ocr.datasets.kept_images"):
        kept = keep(dataset)
    announced = "Image caching enabled - will keep 8 of 8 decoded images after first access (2.9 MB, RAM)"
    assert caplog.messages[-1] == announced
    assert [kept.wants(index) for index in range(8)] == [True] * 8
    dataset.kept_images = kept
    dataset.load_image(5)  # to draw a picture, say
    assert kept.decoded(5) is None
    first = dataset[5]["image"]
    assert kept.decoded(5) is not None
    assert torch.equal(dataset[5]["image"], first)
    assert kept.num_images == (8 if preload else 1)


def test_files_and_pixels_share_the_ram_budget(turned):
    dataset = make_dataset(
        turned, preload_images=True, cache_config=CacheConfig(cache_decoded_images=True, image_format="encoded")
    )
    size_of_files = sum(path.stat().st_size for path in turned.iterdir())
    kept = keep(dataset, ram_budget=size_of_files + 3 * 300 * 400 * 3 - 1)
    assert kept.file_bytes == size_of_files
    assert kept.pixels.num_places == 2


def test_dropped_files_leave_the_counts(turned):
    dataset = make_dataset(turned, preload_images=True)
    kept = keep(dataset)
    last = len(kept.encoded(7))
    kept.drop_files([0, 1, 1, 2, 3, 4, 5, 6])
    kept.drop_files([0])
    assert kept.in_memory().tolist() == [False] * 7 + [True]
    assert (kept.num_images, kept.num_bytes) == (1, last)
    kept.clear()
    assert (kept.num_images, kept.num_bytes) == (0, 0)


def test_preloading_nothing_is_no_error(turned, caplog):
    manifest = make_dataset(turned).manifest
    with caplog.at_level(logging.INFO, logger="ocr.datasets.kept_images"):
        assert preload_files(manifest, PLENTY, []) == {}
    assert caplog.messages[0] == "Preloaded 0/0 images into RAM (0.0%)"
