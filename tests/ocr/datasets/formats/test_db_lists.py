"""List files of MhLiao/DB select the images of a split, as its own loader does."""

import os
from pathlib import Path

import pytest

from ocr.datasets.audit import load_manifest
from ocr.datasets.formats.look import look_at
from ocr.datasets.formats.read import find_format
from ocr.datasets.manifest import Manifest
from ocr.datasets.schemas import DatasetConfig
from ocr.errors import InputError
from tests.ocr.datasets.formats.example_set import write_images

NAMES = ["img_1.jpg", "img_2.jpg", "img_3.JPG"]


def write_set(root: Path, text_name: str) -> DatasetConfig:
    """Writes three images with a word each; `text_name` is the pattern of their text files."""
    images = root / "test_images"
    write_images(images, NAMES)
    (root / "test_gts").mkdir()
    for name in NAMES:
        path = root / "test_gts" / text_name.format(filename=name, stem=Path(name).stem)
        path.write_text("10,10,40,10,40,20,10,20,word\n")
    return DatasetConfig(
        image_path=str(images),
        annotation_path=str(root / "test_gts"),
        annotation_format="db",
        image_extensions=[".jpg"],
        audit_memo=str(root / "memos"),
    )


def load(config: DatasetConfig) -> Manifest:
    return load_manifest(config, max_megapixels=1)[0]


@pytest.mark.parametrize("text_name", ["{filename}.txt", "gt_{stem}.txt", "{stem}.txt"])
@pytest.mark.parametrize("line", ["img_2.jpg", "test_images/img_2.jpg", "./IMG_2.JPG", "  img_2.jpg\r"])
def test_a_list_selects_the_images(tmp_path, text_name, line):
    config = write_set(tmp_path, text_name)
    (tmp_path / "test_list.txt").write_text(f"\n{line}\n")
    assert tuple(load(config).filenames) == ("img_2.jpg",)
    assert find_format(look_at(tmp_path / "test_gts"))[0].name == "db"


def test_without_a_list_all_images_are_read(tmp_path):
    config = write_set(tmp_path, "gt_{stem}.txt")
    (tmp_path / "train_list.txt").write_text("img_2.jpg\n")
    assert tuple(load(config).filenames) == tuple(NAMES)


def test_a_changed_list_is_read_again(tmp_path):
    config = write_set(tmp_path, "{filename}.txt")
    listing = tmp_path / "test_list.txt"
    assert len(load(config)) == 3
    listing.write_text("img_2.jpg\nimg_1.jpg\n")
    assert len(load(config)) == 2
    listing.write_text("img_3.JPG\n")
    os.utime(listing, ns=(1, 1))
    assert tuple(load(config).filenames) == ("img_3.JPG",)


def test_a_listed_image_without_text_file_is_named(tmp_path):
    config = write_set(tmp_path, "{filename}.txt")
    (tmp_path / "test_list.txt").write_text("img_1.jpg\nimg_2.jpg\n")
    (tmp_path / "test_gts/img_2.jpg.txt").unlink()
    with pytest.raises(
        InputError, match=r"test_list\.txt.*2.*a listed image without text file.*img_2\.jpg\.txt in test_gts"
    ):
        load(config)


def test_a_list_of_other_images_is_refused(tmp_path):
    config = write_set(tmp_path, "{filename}.txt")
    (tmp_path / "test_list.txt").write_text("scan_1.jpg\n")
    with pytest.raises(
        InputError, match=r"test_list\.txt: names none of the 3 images that test_gts has text files for"
    ):
        load(config)
