"""Each image has a picture of its own, inside the folder of the pictures."""

import json

import numpy as np
import pytest
from PIL import Image

from ocr.errors import InputError
from ocr.postprocess.boxes import Detections
from ocr.predictions import FOUND_COLOUR, draw_picture, image_entry, save_picture, write_entries


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


def drawn_entries():
    """Returns entries of images with 0 to 60 texts, quads and outlines, at names that JSON has to escape."""
    rng = np.random.default_rng(5)
    names = ["a.jpg", 'of "1".jpg', "back\\slash.jpg", "영수증 é 😀.jpg", "tab\tline\n.jpg", "sub/b.png"]
    for name, num_texts in zip(names, (0, 1, 2, 60, 17, 0), strict=True):
        polygons = [rng.uniform(0, 5000, (rng.integers(4, 12), 2)).astype(np.float32) for _ in range(num_texts)]
        polygons = [polygon.round() if number % 3 == 0 else polygon for number, polygon in enumerate(polygons)]
        yield name, image_entry(Detections.from_polygons(polygons, rng.uniform(0, 1, num_texts) ** 8))


@pytest.mark.parametrize("num_images", [0, 1, 6])
def test_the_file_is_that_of_json_with_an_indent(num_images, tmp_path):
    entries = list(drawn_entries())[:num_images]
    expected = json.dumps({"images": dict(entries)}, indent=1)
    write_entries(tmp_path / "predictions.json", entries)
    assert (tmp_path / "predictions.json").read_bytes() == expected.encode()


def test_entries_are_written_without_the_slow_encoder(tmp_path, monkeypatch):
    """With an indent, `json` encodes each number in Python, which takes longer than finding the text."""
    monkeypatch.setattr("json.encoder._make_iterencode", None)
    write_entries(tmp_path / "predictions.json", drawn_entries())
    assert len(json.loads((tmp_path / "predictions.json").read_bytes())["images"]) == 6


def test_an_entry_rounds_points_to_hundredths_and_confidences_to_four_digits():
    triangle = np.array([[0.126, 7], [10.004, 0], [3, 4999.997]], np.float32)
    quad = np.array([[1, 2], [3, 2], [3, 4.5], [1, 4.5]], np.float32)
    assert image_entry(Detections.from_polygons([triangle, quad], [0.98766, 0.5])) == {
        "words": {
            "0001": {"points": [[0.13, 7.0], [10.0, 0.0], [3.0, 5000.0]], "confidence": 0.9877},
            "0002": {"points": [[1.0, 2.0], [3.0, 2.0], [3.0, 4.5], [1.0, 4.5]], "confidence": 0.5},
        }
    }
    assert image_entry(Detections.from_polygons([], [])) == {"words": {}}
