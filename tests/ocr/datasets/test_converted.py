"""Images that decoders read differently are converted once, into a folder of copies."""

import logging
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ocr.datasets.audit import load_manifest
from ocr.datasets.converted import copy_path, default_folder
from ocr.datasets.manifest import Manifest
from ocr.datasets.schemas import DatasetConfig
from ocr.errors import InputError, StorageError
from ocr.progress import Pulse
from tests.ocr.datasets.audits import encoded


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(encoded())
    (folder / "b.png").write_bytes(encoded(image_format="PNG"))
    (folder / "c.jpg").write_bytes(encoded(image_format="TIFF", orientation=6))
    return folder


def manifest_of(folder: Path, **values: object) -> Manifest:
    config = DatasetConfig(image_path=str(folder), converted_path=str(folder.parent / "copies"), **values)
    return load_manifest(config, max_megapixels=1)[0]


def test_only_files_that_need_it_are_converted(folder: Path, tmp_path: Path) -> None:
    manifest = manifest_of(folder)
    copy = copy_path(tmp_path / "copies", folder / "c.jpg")
    assert manifest.image_paths == (str(folder / "a.jpg"), str(folder / "b.png"), str(copy))
    assert copy == tmp_path / "copies" / folder.relative_to("/") / "c.jpg.png"
    assert manifest.is_converted is not None
    assert manifest.is_converted.tolist() == [False, False, True]
    assert manifest.filenames[2] == "c.jpg"
    assert (manifest.stored_sizes[2].tolist(), manifest.orientations[2]) == ([30, 40], 6)
    with Image.open(copy) as image:
        assert (image.size, image.mode, image.getexif()[0x0112]) == ((40, 30), "RGB", 6)
    assert [path.name for path in (tmp_path / "copies").rglob("*") if path.is_file()] == ["c.jpg.png"]


def test_a_copy_is_made_once_and_again_when_its_source_changes(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "ocr.datasets.converted"):
        copy = Path(manifest_of(folder).image_paths[2])
        first = copy.stat()
        assert first.st_mtime_ns == (folder / "c.jpg").stat().st_mtime_ns
        manifest_of(folder)
        assert copy.stat().st_ino == first.st_ino
        assert caplog.text.count("converted 1 images to 8-bit PNG in ") == 1
        Image.new("RGB", (40, 30), "red").save(folder / "c.jpg", "TIFF")
        os.utime(folder / "c.jpg", ns=(first.st_mtime_ns, first.st_mtime_ns))  # only the size has changed
        manifest_of(folder)
        assert np.asarray(Image.open(copy))[0, 0].tolist() == [255, 0, 0]
        Image.new("RGB", (40, 30), "blue").save(folder / "c.jpg", "TIFF")
        os.utime(folder / "c.jpg", ns=(first.st_mtime_ns + 1, first.st_mtime_ns + 1))  # only the time
        manifest_of(folder)
        assert np.asarray(Image.open(copy))[0, 0].tolist() == [0, 0, 255]
        copy.write_bytes(b"")
        manifest_of(folder)
        assert np.asarray(Image.open(copy))[0, 0].tolist() == [0, 0, 255]


def test_a_long_conversion_logs_its_progress_without_a_terminal(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "d.tif").write_bytes(encoded(image_format="TIFF"))
    monkeypatch.setattr(Pulse, "is_due", lambda pulse: True)
    with caplog.at_level(logging.INFO, "ocr.progress"):
        manifest_of(folder, image_extensions=(".jpg", ".tif"))
    assert "Converting images: 1 of 2" in caplog.text


def test_copies_lie_in_the_users_cache_folder_unless_another_is_set(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert default_folder() == tmp_path / "cache" / "dali-dbnet" / "converted"
    manifest, _ = load_manifest(DatasetConfig(image_path=str(folder)), max_megapixels=1)
    assert manifest.image_paths[2] == str(copy_path(default_folder(), folder / "c.jpg"))


def test_a_long_name_has_a_copy_too(tmp_path: Path) -> None:
    names = ["가" * 80 + ".tif", "a" * 251 + ".tif", "a" * 250 + "b.tif"]
    for number, name in enumerate(names):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / name)
    manifest = manifest_of(tmp_path)
    levels = [np.asarray(Image.open(path))[0, 0, 0] for path in manifest.image_paths]
    assert sorted(levels) == [0, 1, 2]


def test_a_folder_that_cannot_be_written_is_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "copies").touch()
    with pytest.raises(
        StorageError, match=r"c\.jpg\.png: the converted copy of .*c\.jpg cannot be written: .*converted_path"
    ):
        manifest_of(folder)


def test_damage_that_the_audit_was_not_to_look_for_is_named(folder: Path) -> None:
    content = (folder / "c.jpg").read_bytes()
    (folder / "c.jpg").write_bytes(content[:500] + content[-400:])
    assert len(manifest_of(folder)) == 2
    with Image.open(folder / "b.png") as image:
        image.save(folder / "d.bmp")
    (folder / "d.bmp").write_bytes((folder / "d.bmp").read_bytes()[:900])
    extensions = (".bmp",)
    with pytest.raises(InputError, match=r"d\.bmp: cannot be converted to 8 bits: found BMP data"):
        manifest_of(folder, check_pixels=False, image_extensions=extensions)


def test_a_folder_without_jpeg_and_png_is_read_and_others_are_named(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("scan.tif", "photo.WebP"):
        Image.new("RGB", (8, 8)).save(folder / name)
    assert manifest_of(folder).filenames == ("a.jpg", "b.png", "c.jpg")
    assert "skipped 2 images ending in .tif,.webp; add these endings to image_extensions" in caplog.text
    every = (".jpg", ".png", ".tif", ".webp")
    assert len(manifest_of(folder, image_extensions=every)) == 5
    for name in ("a.jpg", "b.png", "c.jpg"):
        (folder / name).unlink()
    assert manifest_of(folder).filenames == ("photo.WebP", "scan.tif")
