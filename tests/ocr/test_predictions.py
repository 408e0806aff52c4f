"""Each image has a picture of its own, inside the folder of the pictures."""

import numpy as np
import pytest
from PIL import Image

from ocr.errors import InputError
from ocr.postprocess.boxes import Detections
from ocr.predictions import FOUND_COLOUR, draw_picture, save_picture


def test_outlines_on_a_large_page_do_not_hide_small_text():
    text = np.array([[100, 100], [400, 100], [400, 124], [100, 124]], np.float32)
    pixels = np.full((5200, 4000, 3), 255, np.uint8)
    picture = np.asarray(draw_picture(pixels, Detections.from_polygons([text], [1])))
    assert (picture[106:118, 106:394] == 255).all()


def test_no_two_images_share_a_picture(tmp_path):
    names = ["a.jpg", "a.jpeg", "a.png", "a.png.jpg", "a.png.jpg.jpg", "a.jpg.jpg", "a.jpe", "a.jpe.jpg", "a.v2.jpg"]
    for shade, name in enumerate(names):
        save_picture(Image.new("L", (8, 8), shade * 20), tmp_path, name)
    written = {path.name for path in tmp_path.iterdir()}
    assert len(written) == len(names)
    assert {"a.jpg", "a.jpeg", "a.png.jpg", "a.jpg.jpg", "a.v2.jpg"} <= written
    assert Image.open(tmp_path / "a.png.jpg").getpixel((0, 0)) == pytest.approx(40, abs=2)


def test_images_of_unusual_extensions_share_no_picture_either(tmp_path):
    for name in ("a.scan", "a.scan.jpg", "a.scan.jpg.jpg", "b.v2.jpg"):
        save_picture(Image.new("L", (8, 8)), tmp_path, name, [".jpg", ".scan"])
    written = {path.name for path in tmp_path.iterdir()}
    assert written == {"a.scan.jpg", "a.scan.jpg.jpg", "a.scan.jpg.jpg.jpg", "b.v2.jpg"}


@pytest.mark.parametrize("name", ["../photo.jpg", "{folder}/photo.jpg", "linked.jpg"])
def test_a_picture_is_never_saved_outside_its_folder(name, tmp_path):
    photo, pictures = tmp_path / "photo.jpg", tmp_path / "pictures"
    photo.write_bytes(b"photo")
    pictures.mkdir()
    (pictures / "linked.jpg").symlink_to(photo)
    with pytest.raises(InputError, match="refused to write"):
        save_picture(Image.new("L", (8, 8)), pictures, name.format(folder=tmp_path))
    assert photo.read_bytes() == b"photo"


def test_a_picture_is_no_longer_than_asked_and_its_polygons_shrink_with_it():
    square = np.array([[400, 400], [1200, 400], [1200, 1200], [400, 1200]], np.float32)
    found = Detections.from_polygons([square], np.array([0.9], np.float32))
    picture = draw_picture(np.full((1600, 3200, 3), 255, np.uint8), found, longest_side=800)
    assert picture.size == (800, 400)
    green = np.argwhere((np.asarray(picture) == FOUND_COLOUR).all(axis=2))
    assert np.abs(green.min(axis=0) - 100).max() <= 1
    assert np.abs(green.max(axis=0) - 300).max() <= 1


def test_a_picture_keeps_the_size_of_a_smaller_image():
    found = Detections.from_polygons([], np.zeros(0, np.float32))
    for longest_side in (800, None):
        assert draw_picture(np.zeros((30, 40, 3), np.uint8), found, longest_side=longest_side).size == (40, 30)
