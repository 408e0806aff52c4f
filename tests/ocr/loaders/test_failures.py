"""Files that break or are replaced after the audit: each costs its slot, is named, and changes no other image."""

import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dali_pipelines.config import PipelineConfig
from dali_pipelines.source import SampleError
from ocr.datasets.base import ValidatedOCRDataset
from ocr.datasets.plan import SamplePlanner
from ocr.loaders.engines import Engine
from ocr.loaders.loader import BatchLoader
from tests.ocr.loaders.batches import CPU, to_levels, uncached_dataset


def bad_index(dataset: ValidatedOCRDataset) -> int:
    """Returns the last image that EXIF does not rotate: the file to damage."""
    return int(np.flatnonzero(dataset.manifest.orientations == 1)[-1])


def make_loader(
    dataset: ValidatedOCRDataset, name: str, batch_size: int = 3, skip_failures: bool = True
) -> BatchLoader:
    return BatchLoader(dataset, Engine(name, CPU, skip_failures=skip_failures), batch_size, with_targets=True)


def assert_only_the_bad_file_fails(loader: BatchLoader, whole: list) -> None:
    bad, failed = bad_index(loader.dataset), []
    for expected, batch in zip(whole, loader, strict=True):
        for slot, sample in enumerate(batch.samples):
            if sample.has_failed:
                failed.append(sample.index)
                assert sample.is_padding
                assert batch.targets.shrink_mask[slot].max() == 0
                levels = to_levels(batch.images[slot : slot + 1], loader.dataset.planner.config)
                np.testing.assert_allclose(levels, 0, atol=1e-4)  # black
            else:
                assert not sample.is_padding
                assert torch.equal(batch.images[slot], expected.images[slot])
    assert failed == [bad]
    assert list(loader.failures) == [loader.dataset.manifest.image_paths[bad]]


@pytest.mark.parametrize("name", ["dali", "torch"])
def test_a_file_that_breaks_costs_its_slot_and_is_named(name, copied):
    dataset = uncached_dataset(copied, training=True)
    whole = list(make_loader(dataset, name))
    broken = Path(dataset.manifest.image_paths[bad_index(dataset)])
    broken.write_bytes(broken.read_bytes()[: broken.stat().st_size // 2])
    assert_only_the_bad_file_fails(make_loader(dataset, name), whole)
    with pytest.raises(SampleError, match=broken.name):
        list(make_loader(dataset, name, skip_failures=False))


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ["dali", "torch"])
def test_a_file_replaced_by_a_smaller_picture_costs_its_slot_and_is_named(name, training, batch_size, copied):
    dataset = uncached_dataset(copied, training=training)
    whole = list(make_loader(dataset, name, batch_size))
    replaced = dataset.manifest.image_paths[bad_index(dataset)]
    Image.new("RGB", (50, 40), "white").save(replaced)
    loader = make_loader(dataset, name, batch_size)
    assert_only_the_bad_file_fails(loader, whole)
    assert re.search(r"the image is 50 x 40 pixels, expected \d+ x \d+.*: replaced since", loader.failures[replaced])
    with pytest.raises(SampleError, match=rf"^{replaced}: .*the image is 50 x 40 pixels"):
        list(make_loader(dataset, name, batch_size, skip_failures=False))


@pytest.mark.parametrize("name", ["dali", "torch"])
def test_evaluation_notices_a_file_replaced_by_a_larger_picture(name, copied):
    dataset = uncached_dataset(copied, training=False)
    bad = bad_index(dataset)
    height, width = dataset.manifest.original_sizes[bad]
    Image.new("RGB", (width + 1, height)).save(dataset.manifest.image_paths[bad])
    loader = make_loader(dataset, name)
    assert [sample.index for batch in loader for sample in batch.samples if sample.has_failed] == [bad]
    (reason,) = loader.failures.values()
    assert f"is {width + 1} x {height} pixels, expected {width} x {height}: replaced" in reason


@pytest.mark.parametrize("training", [True, False])
def test_a_batch_of_large_images_is_decoded_in_parts_with_the_same_result(training, copied):
    def loader(max_batch_megapixels: float) -> BatchLoader:
        config = PipelineConfig(image_size=96, max_batch_megapixels=max_batch_megapixels)
        planner = SamplePlanner(config, training=training, seed=2)
        return make_loader(
            ValidatedOCRDataset(uncached_dataset(copied, training=training).config, planner), "dali", batch_size=4
        )

    whole = list(loader(400))
    in_parts = loader(0.2)  # these images have more than an eighth of it, so one is decoded at once
    for expected, batch in zip(whole, in_parts, strict=True):
        assert torch.equal(batch.images, expected.images)
        assert not batch.samples.has_failed.any()
    bad = Path(in_parts.dataset.manifest.image_paths[3])
    bad.write_bytes(bad.read_bytes()[:500])
    for expected, batch in zip(whole, in_parts, strict=True):
        is_bad = batch.samples.indices == 3
        np.testing.assert_array_equal(batch.samples.has_failed, is_bad)
        assert torch.equal(batch.images[~is_bad], expected.images[~is_bad])


def png_header(width: int, height: int) -> bytes:
    """Returns a PNG of a few hundred bytes whose header states any size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def huge_jpeg(content: bytes, width: int, height: int) -> bytes:
    """Returns a JPEG whose header states another size."""
    place = next(match.start() for match in re.finditer(rb"\xff[\xc0\xc1\xc2]\x00\x11\x08", content))
    return content[: place + 5] + struct.pack(">HH", height, width) + content[place + 9 :]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("name", ["dali", "torch"])
def test_a_file_exchanged_for_a_larger_picture_is_named(name, scaled, training, copied):
    dataset = uncached_dataset(copied, training=training, pipeline=PipelineConfig(image_size=160, scaled_decode=scaled))
    whole = list(make_loader(dataset, name))
    exchanged = Path(dataset.manifest.image_paths[bad_index(dataset)])
    with Image.open(exchanged) as image:
        width, height = image.size
        image.resize((width + 8, height + 40)).save(exchanged)
    loader = make_loader(dataset, name)
    assert_only_the_bad_file_fails(loader, whole)
    (reason,) = loader.failures.values()
    expected = (
        f"the image is {width + 8} x {height + 40} pixels, expected {width} x {height}: replaced since it was checked"
    )
    assert expected in reason


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("name", ["dali", "torch"])
def test_a_file_exchanged_for_one_with_a_huge_header_is_not_decoded(name, kind, copied):
    dataset = uncached_dataset(copied, training=True)
    whole = list(make_loader(dataset, name))
    exchanged = Path(dataset.manifest.image_paths[bad_index(dataset)])
    huge = png_header(65500, 65500) if kind == "PNG" else huge_jpeg(exchanged.read_bytes(), 65500, 65500)
    exchanged.write_bytes(huge)
    loader = make_loader(dataset, name)
    assert_only_the_bad_file_fails(loader, whole)
    (reason,) = loader.failures.values()
    assert "replaced since it was checked" in reason
