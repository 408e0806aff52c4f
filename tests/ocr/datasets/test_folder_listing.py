"""A name in annotations finds the file that it means, and a folder with symbolic links is listed once."""

import logging
import os
import unicodedata
from pathlib import Path

import pytest

from ocr.datasets.folder_listing import AmbiguousName, FolderListing, FoundFile

NFC = unicodedata.normalize("NFC", "영수증é.jpg")
NFD = unicodedata.normalize("NFD", NFC)


def listing_of(folder: Path, *names: str) -> FolderListing:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return FolderListing(folder)


@pytest.mark.parametrize(
    ("on_disk", "written", "differs_in"),
    [
        ("a.jpg", "a.jpg", ()),
        (NFD, NFC, ("Unicode form",)),
        (NFC, NFD, ("Unicode form",)),
        ("sub/A.JPG", "sub/a.jpg", ("case",)),
        ("Sub/a.jpg", "sub/a.jpg", ("case",)),
        ("straße.jpg", "STRASSE.jpg", ("case",)),
        ("sub/a.jpg", "sub\\a.jpg", ("slash",)),
        ("sub\\a.jpg", "sub/a.jpg", ("slash",)),
        ("sub/a.jpg", "./sub/a.jpg", ("slash",)),
        ("sub/a.jpg", ".\\sub\\\\a.jpg", ("slash",)),
        ("sub/a.jpg", "sub//a.jpg", ("slash",)),
        (f"Sub/{NFD}", f".\\sub\\{NFC}", ("slash", "Unicode form", "case")),
    ],
)
def test_a_name_finds_the_file_it_means(
    tmp_path: Path, on_disk: str, written: str, differs_in: tuple[str, ...]
) -> None:
    found = listing_of(tmp_path, on_disk, "other.jpg").find(written)
    assert found == FoundFile(on_disk, differs_in)


def test_hidden_images_are_named_but_not_found_by_looking(tmp_path: Path) -> None:
    listing = listing_of(tmp_path, "a.JPG", "._a.JPG", "sub/b.jpg", "sub/._b.jpg", ".thumbs/a.jpg", "sub/c.d.jpg")
    assert listing.images((".jpg",)) == ["a.JPG", "sub/b.jpg", "sub/c.d.jpg"]
    assert listing.find("._a.JPG") == FoundFile("._a.JPG")


@pytest.mark.parametrize("written", ["b.jpg", "../a.jpg", "sub/../a.jpg", "", ".", "/a.jpg", "a.jpeg", "a"])
def test_no_file_is_guessed(tmp_path: Path, written: str) -> None:
    assert listing_of(tmp_path, "a.jpg", "sub/c.jpg").find(written) is None


def test_the_name_as_written_wins(tmp_path: Path) -> None:
    listing = listing_of(tmp_path, NFC, NFD, "a.jpg", "A.jpg", "sub/b.jpg", "sub\\b.jpg")
    for name in (NFC, NFD, "a.jpg", "A.jpg", "sub/b.jpg", "sub\\b.jpg"):
        assert listing.find(name) == FoundFile(name)
    upper = NFC.replace(".jpg", ".JPG")
    assert listing_of(tmp_path, upper).find(unicodedata.normalize("NFD", upper)) == FoundFile(upper, ("Unicode form",))


def test_two_files_that_fit_are_both_named(tmp_path: Path) -> None:
    listing = listing_of(tmp_path, "a.jpg", "A.jpg", NFC, NFD)
    with pytest.raises(AmbiguousName, match=r"^a\.JPG fits A\.jpg and a\.jpg$"):
        listing.find("a.JPG")
    with pytest.raises(AmbiguousName) as caught:
        listing.find(f"./{NFC.upper()}")
    assert set(caught.value.candidates) == {NFC, NFD}
    assert "\\u" in str(caught.value)  # otherwise the two look alike


@pytest.mark.parametrize(
    ("stem", "expected"),
    [
        ("img_1", ["img_1.jpg", "img_1.png"]),
        ("IMG_1", ["img_1.jpg", "img_1.png"]),
        ("B", ["B.jpg"]),
        ("b", ["b.jpg"]),
        (unicodedata.normalize("NFD", "é"), ["é.JPG"]),
        ("sub\\c", ["sub/c.jpg"]),
        ("c", []),
        ("img", []),
    ],
)
def test_a_stem_finds_its_images(tmp_path: Path, stem: str, expected: list[str]) -> None:
    names = ["img_1.jpg", "img_1.png", "img_1.txt", "B.jpg", "b.jpg", "é.JPG", "sub/c.jpg"]
    assert listing_of(tmp_path, *names).with_stem(stem, (".jpg", ".png")) == expected


def test_links_to_folders_are_followed_and_loops_noticed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    outside = tmp_path / "outside"
    listing_of(outside, "o.jpg", "deep/p.jpg")
    folder = tmp_path / "images"
    listing_of(folder, "a.jpg", "z/b.jpg")
    (folder / "elsewhere").symlink_to(outside)
    (folder / "a_link_to_z").symlink_to(folder / "z")
    (folder / "z" / "up").symlink_to(folder)
    (outside / "back").symlink_to(folder)
    (folder / "z" / "around").symlink_to(tmp_path)
    (folder / "itself").symlink_to(folder / "itself")
    (folder / "nowhere.jpg").symlink_to(tmp_path / "nothing.jpg")
    with caplog.at_level(logging.WARNING):
        listing = FolderListing(folder)
    assert listing.images((".jpg",)) == ["a.jpg", "elsewhere/deep/p.jpg", "elsewhere/o.jpg", "nowhere.jpg", "z/b.jpg"]
    assert "skipped 4 symbolic links to folders that are read already or lie around the link: " in caplog.text
    assert all(name in caplog.text for name in ("a_link_to_z/", "elsewhere/back/", "z/up/", "z/around/"))
    assert listing.find("a_link_to_z/b.jpg") == FoundFile("a_link_to_z/b.jpg")  # a path that annotations may use


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    listing_of(tmp_path, "a.jpg", "closed/b.jpg")
    (tmp_path / "closed").chmod(0)
    try:
        assert FolderListing(tmp_path).names == ["a.jpg"]
    finally:
        (tmp_path / "closed").chmod(0o700)
    assert "folders that cannot be read: closed/" in caplog.text
