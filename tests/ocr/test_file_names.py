"""Names from data never lead out of their folder, and never reach a terminal as control characters."""

from pathlib import Path

import pytest

from ocr.errors import InputError
from ocr.file_names import name_problem, path_inside, shown, with_ending


@pytest.mark.parametrize(
    "name",
    [
        "a.jpg",
        "sub/b.PNG",
        "..a.jpg",
        "a..jpg",
        "~/a.jpg",
        "영수증 1.jpg",
        "a\u3000b\u200c.jpg",
        "\udce9.jpg",
        "a" * 255,
    ],
)
def test_ordinary_names_are_sound(name, tmp_path):
    assert name_problem(name) is None
    assert path_inside(tmp_path, name) == tmp_path / name


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("/etc/a.jpg", "an absolute path"),
        ("../a.jpg", "a path that leads out of its folder"),
        ("sub/../../a.jpg", "a path that leads out of its folder"),
        ("..", "a path that leads out of its folder"),
        ("sub/../a.jpg", "a path that is not normalised"),
        ("./a.jpg", "a path that is not normalised"),
        ("sub//a.jpg", "a path that is not normalised"),
        ("a.jpg/", "a path that is not normalised"),
        ("", "no file name"),
        (".", "no file name"),
        ("a\0.jpg", r"the control character \x00"),
        ("a\n.jpg", r"the control character \x0a"),
        ("\x1b[31ma.jpg", r"the control character \x1b"),
        ("a\x9b.jpg", r"the control character \x9b"),
        ("\ud800.jpg", r"the character \ud800"),
        ("é" * 128, "a file name of 256 bytes"),
        ("sub/" * 1024 + "a", "a file name of 4097 bytes"),
    ],
)
def test_other_names_are_refused_and_never_written(name, found, tmp_path):
    problem = name_problem(name)
    assert problem is not None
    assert problem[0] == found
    with pytest.raises(InputError, match="refused to write") as caught:
        path_inside(tmp_path, name)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["a.png", "sub/영수증 1.jpg", "sub.long/" + "x" * 251])
def test_an_ending_follows_the_whole_name(name):
    assert with_ending(name, ".npz") == f"{name}.npz"


def test_a_name_that_gets_too_long_with_its_ending_is_cut_and_differs_from_others():
    names = [f"sub/{'영' * 84}{last}" for last in "ab"]
    found = [with_ending(name, ".npz") for name in names]
    assert len(set(found)) == 2
    for name in found:
        assert name_problem(name) is None
        assert name.startswith("sub/영영")
        assert name.endswith(".npz")


def test_a_link_that_leads_out_of_the_folder_is_not_followed(tmp_path: Path):
    outside, folder = tmp_path / "outside", tmp_path / "folder"
    outside.mkdir()
    (folder / "sub").mkdir(parents=True)
    (outside / "a.jpg").write_bytes(b"photo")
    (folder / "a.jpg").symlink_to(outside / "a.jpg")
    (folder / "linked").symlink_to(outside)
    (folder / "inside").symlink_to(folder / "sub")
    for name in ("a.jpg", "linked/new.jpg"):
        with pytest.raises(InputError, match=r"through a symbolic link to .*outside"):
            path_inside(folder, name)
    assert path_inside(folder, "inside/new.jpg") == folder / "inside/new.jpg"
    (tmp_path / "alias").symlink_to(folder)
    assert path_inside(tmp_path / "alias", "new.jpg") == tmp_path / "alias/new.jpg"


def test_control_characters_are_shown_as_escapes():
    assert shown("a\x1b[31m\n\x7f\x9b\u2028\u202e\ud800é 영.jpg") == r"a\x1b[31m\x0a\x7f\x9b\u2028\u202e\ud800é 영.jpg"
