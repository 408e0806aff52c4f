from pathlib import Path

import pytest
from PIL import Image

from ocr.datasets.formats.image_folder import ImageFolder


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("a.jpg", "a.jpg"),
        ("sub/a.jpg", "sub/a.jpg"),
        ("train/sub/a.jpg", "sub/a.jpg"),
        ("/data/train/a.jpg", "a.jpg"),
        ("../../a.jpg", "a.jpg"),
        ("other/b.jpg", "other/b.jpg"),
        ("a\0.jpg", "a\0.jpg"),
        ("x" * 300, "x" * 300),
        ("/data" * 100 + "/a.jpg", "a.jpg"),
        pytest.param("\\" * 5000 + "a.jpg", "\\" * 5000 + "a.jpg", id="longer than any path"),
    ],
)
def test_the_longest_end_of_a_path_that_is_a_file_is_meant(name: str, found: str, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.jpg").touch()
    (tmp_path / "sub/a.jpg").touch()
    assert ImageFolder(tmp_path, (".jpg",)).locate(name) == found


def test_sizes_are_in_the_frame_of_the_annotations(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30)).save(tmp_path / "a.jpg", exif=exif)
    assert ImageFolder(tmp_path, (".jpg",)).size_of("a.jpg") == (30, 40)
    assert ImageFolder(tmp_path, (".jpg",), "upright").size_of("a.jpg") == (40, 30)
    assert ImageFolder(tmp_path, (".jpg",)).size_of("b.jpg") is None
