import io

import numpy as np
import pytest
from PIL import Image, ImageOps, JpegImagePlugin

from dali_pipelines import geometry
from ocr.datasets.orientation import stored_from_original
from ocr.synthetic.jpeg import SAMPLINGS, Encoding, encode


def _rng(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(seed))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_stored_pixels_follow_the_polygons_and_exif_rotates_them_back(orientation: int) -> None:
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[6:12, 40:48] = 255  # its centre is at (44, 9)
    file = encode(picture, Encoding(orientation, True, "4:4:4", 95, is_gray=False, is_progressive=False))
    with Image.open(io.BytesIO(file)) as image:
        assert image.getexif()[0x0112] == orientation
        matrix = stored_from_original(orientation, (image.height, image.width))
        np.testing.assert_allclose(_centroid(image), geometry.transform_points(matrix, [44.0, 9.0]), atol=0.1)
        np.testing.assert_allclose(_centroid(ImageOps.exif_transpose(image)), (44, 9), atol=0.1)


def _centroid(image: Image.Image) -> tuple[float, float]:
    light = np.asarray(image.convert("L"), np.float64)
    light[light < 100] = 0
    rows, columns = np.mgrid[: light.shape[0], : light.shape[1]] + 0.5
    return (columns * light).sum() / light.sum(), (rows * light).sum() / light.sum()


@pytest.mark.parametrize(("sampling", "code"), SAMPLINGS.items())
@pytest.mark.parametrize("is_progressive", [False, True])
def test_file_has_the_chosen_sampling_and_scan_order(sampling: str, code: int, is_progressive: bool) -> None:
    picture = _rng(1).integers(0, 256, (40, 56, 3), np.uint8)
    with Image.open(io.BytesIO(encode(picture, Encoding(1, False, sampling, 80, False, is_progressive)))) as image:
        assert JpegImagePlugin.get_sampling(image) == code
        assert ("progressive" in image.info) == is_progressive
        assert len(image.getexif()) == 0
