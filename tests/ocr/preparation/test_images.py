"""Images are copied or turned upright without losing more than JPEG must."""

import io
import os

import numpy as np
import pytest
from PIL import Image

from dali_pipelines.turbojpeg import decode_upright
from ocr.datasets.audit import build_manifest
from ocr.datasets.image_header import read_header
from ocr.datasets.orientation import upright_size
from ocr.preparation.images import known_outcome, turn_upright, write_image
from ocr.preparation.outcomes import Outcome


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize(
    ("sampling", "turned"), [("4:2:2", "4:4:0"), ("4:2:0", "4:2:0"), ("4:4:4", "4:4:4")], ids=lambda text: text
)
def test_turned_jpegs_keep_their_sampling(orientation, sampling, turned):
    pixels = np.random.default_rng(1).integers(0, 256, (40, 24, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", subsampling=sampling, quality=90)
    content, action = turn_upright(file.getvalue(), orientation)
    header = read_header(io.BytesIO(content))
    assert action == "encoded"
    assert header.sampling == (turned if orientation >= 5 else sampling)
    assert header.orientation == 1
    assert header.stored_size == upright_size(orientation, (40, 24))


def test_a_grey_jpeg_stays_grey():
    file = io.BytesIO()
    Image.fromarray(np.arange(240, dtype=np.uint8).reshape(12, 20)).save(file, "JPEG", quality=95)
    content, _ = turn_upright(file.getvalue(), 6)
    header = read_header(io.BytesIO(content))
    assert (header.color, header.stored_size) == ("gray", (20, 12))
    assert np.abs(decode_upright(content, 1).astype(int) - decode_upright(file.getvalue(), 6)).mean() < 1


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA"])
def test_a_turned_png_keeps_every_level(mode):
    pixels = np.random.default_rng(2).integers(0, 256, (9, 14, 3), np.uint8)
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 7
    Image.fromarray(pixels).convert(mode).save(file, "PNG", exif=exif)
    assert read_header(io.BytesIO(file.getvalue())).orientation == 7
    content, action = turn_upright(file.getvalue(), 7)
    assert action == "turned"
    assert read_header(io.BytesIO(content)).orientation == 1
    np.testing.assert_array_equal(decode_upright(content, 1), decode_upright(file.getvalue(), 7))


def test_a_turned_image_that_a_crash_has_left_empty_is_written_again(tmp_path):
    source, out = tmp_path / "a.jpg", tmp_path / "out"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30)).save(source, exif=exif)
    manifest, _ = build_manifest(tmp_path, None, extensions=(".jpg",))
    assert known_outcome(manifest, 0, out, canonical=True) is None
    write_image(source, out / "a.jpg", 6)
    assert known_outcome(manifest, 0, out, canonical=True) == Outcome("kept")
    status = source.stat()
    (out / "a.jpg").write_bytes(b"")
    os.utime(out / "a.jpg", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert known_outcome(manifest, 0, out, canonical=True) is None


def test_a_missing_source_is_an_outcome_that_names_it(tmp_path):
    outcome = write_image(tmp_path / "gone.jpg", tmp_path / "out.jpg", 1)
    assert outcome.action == "failed"
    assert outcome.reason is not None
    assert "gone.jpg: cannot be read" in outcome.reason
    assert not (tmp_path / "out.jpg").exists()
