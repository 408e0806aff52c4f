import io
import json

import numpy as np
import pytest
from PIL import Image, ImageOps

from dali_pipelines.turbojpeg import decode_upright


@pytest.mark.parametrize("use_turbojpeg", [True, False])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_as_pillow_does(orientation, use_turbojpeg):
    pixels = np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=95, exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(stream)))
    np.testing.assert_array_equal(decode_upright(stream.getvalue(), orientation, use_turbojpeg), expected)


def test_every_decodable_odd_jpeg_is_decoded_like_pillow(odd_jpegs):
    entries = json.loads((odd_jpegs / "manifest.json").read_text())
    entries = entries["files"] if isinstance(entries, dict) else entries
    decodable = [entry for entry in entries if entry["is_decodable_jpeg"]]
    assert len(decodable) == 36
    for entry in decodable:
        path = odd_jpegs / entry["file"]
        with Image.open(path) as image:
            expected = np.asarray(image.convert("RGB"))
        np.testing.assert_array_equal(decode_upright(path.read_bytes(), 1), expected, err_msg=entry["file"])


def test_a_cut_file_is_an_error(odd_jpegs):
    with pytest.raises((ValueError, OSError)):
        decode_upright((odd_jpegs / "truncated_half.jpg").read_bytes(), 1)
