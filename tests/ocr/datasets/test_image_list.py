"""The images that a command names: a file, several, a folder, a pattern, or a text file of paths."""

import unicodedata
from pathlib import Path

import pytest

from ocr.datasets.image_checks import IMAGE_EXTENSIONS
from ocr.datasets.image_list import find_images
from ocr.errors import InputError

NAMES = [
    "b.jpg",
    "a=b (1), [c].jpg",
    "영수증.tif",
    "deep/c.PNG",
    "deep/er/d.webp",
    "-dash.jpg",
    "scan.dat",
    "words.json",
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in NAMES:
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path / "images"


def found(*given: str) -> tuple[Path, list[str]]:
    folder, names = find_images(given, IMAGE_EXTENSIONS)
    assert all((folder / name).is_file() for name in names)
    return folder, names


@pytest.mark.parametrize("name", [name for name in NAMES if name != "words.json"])
def test_one_file_is_found_whatever_its_name(folder: Path, name: str) -> None:
    path = folder / name
    assert found(str(path)) == (path.parent, [path.name])
    assert found(f"images/{name}") == (path.parent, [path.name])


def test_several_files_and_folders_have_names_relative_to_their_common_folder(folder: Path) -> None:
    given = ["images/b.jpg", "images/deep/er", str(folder / "deep" / "c.PNG"), "images/b.jpg"]
    assert found(*given) == (folder, ["b.jpg", "deep/er/d.webp", "deep/c.PNG"])


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("images/*.jpg", ["-dash.jpg", "a=b (1), [c].jpg", "b.jpg"]),
        ("images/*", ["-dash.jpg", "a=b (1), [c].jpg", "b.jpg", "deep/c.PNG", "deep/er/d.webp", "영수증.tif"]),
        ("images/**/*.[pw]*", ["d.webp"]),
        ("images/**", ["-dash.jpg", "a=b (1), [c].jpg", "b.jpg", "deep/c.PNG", "deep/er/d.webp", "영수증.tif"]),
        ("images/?.jpg", ["b.jpg"]),
        ("images/deep*", ["c.PNG", "er/d.webp"]),
    ],
)
def test_a_pattern_finds_images_only(folder: Path, pattern: str, expected: list[str]) -> None:
    assert found(pattern)[1] == expected


def test_an_existing_path_is_no_pattern(folder: Path) -> None:
    assert found("images/a=b (1), [c].jpg")[1] == ["a=b (1), [c].jpg"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_list_names_files_beside_it_or_in_the_working_directory(folder: Path, encoding: str, end: str) -> None:
    lines = ["영수증.tif", "", "images/deep/c.PNG", str(folder / "b.jpg"), "  a=b (1), [c].jpg", "gone.jpg", "deep/er"]
    (folder / "list.txt").write_bytes(end.join(lines).encode(encoding))
    common, names = find_images([str(folder / "list.txt")], IMAGE_EXTENSIONS)
    assert common == folder
    assert names == [
        "영수증.tif",
        "deep/c.PNG",
        "b.jpg",
        "a=b (1), [c].jpg",
        "gone.jpg",
        "deep/er/d.webp",
    ]  # the audit reports what is gone


def test_links_are_followed_and_loops_noticed(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "o.jpg").touch()
    (folder / "link").symlink_to(tmp_path / "other")
    (folder / "deep" / "loop").symlink_to(folder)
    names = found("images", "images")[1]
    assert "link/o.jpg" in names
    assert len(names) == len(set(names)) == 7


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("images/none.jpg", "images/none.jpg: found no such file or folder"),
        ("images/*.gif", r"images/\*\.gif: found no image"),
        ("empty", "empty: found no image; expected files ending in .jpg"),
        ("empty.txt", "empty.txt: found no image"),
        ("latin.txt", "latin.txt: found bytes that are not UTF-8"),
    ],
)
def test_what_names_no_image_is_refused(folder: Path, given: str, message: str) -> None:
    (folder.parent / "empty").mkdir()
    (folder.parent / "empty.txt").touch()
    (folder.parent / "latin.txt").write_bytes("é.jpg\n".encode("latin-1"))
    with pytest.raises(InputError, match=message):
        find_images([given], IMAGE_EXTENSIONS)


def test_paths_in_another_unicode_form_or_case_are_found(folder: Path) -> None:
    decomposed = unicodedata.normalize("NFD", "영수증.tif")
    (folder / "list.lst").write_text(f"{decomposed}\nB.JPG\n")
    assert find_images([str(folder / "list.lst")], IMAGE_EXTENSIONS).names == ["영수증.tif", "b.jpg"]
    assert find_images([f"Images/{decomposed}", "images/DEEP"], IMAGE_EXTENSIONS).names == [
        "영수증.tif",
        "deep/c.PNG",
        "deep/er/d.webp",
    ]
    (folder / "B.jpg").touch()
    with pytest.raises(InputError, match=r"B\.JPG fits B\.jpg and b\.jpg; write the name"):
        find_images(["images/B.JPG"], IMAGE_EXTENSIONS)
