"""Files are written completely or not at all, under every name that a file system takes."""

from pathlib import Path

import pytest

from ocr.atomic_write import atomic_file, write_atomically


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("name", ["a.jpg", "x" * 251 + ".jpg", "영" * 85], ids=["short", "long", "Korean"])
def test_the_longest_names_are_written_too(tmp_path: Path, name: str, shared: bool) -> None:
    with atomic_file(tmp_path / name, shared=shared) as file:
        file.write(b"content")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [(name, b"content")]


def test_two_writers_of_a_shared_file_do_not_meet(tmp_path: Path) -> None:
    with atomic_file(tmp_path / "a.png", shared=True) as one, atomic_file(tmp_path / "a.png", shared=True) as other:
        for file in (one, other):
            file.write(b"content")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a.png", b"content")]


def test_a_failed_write_leaves_the_earlier_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_atomically(path, b"before")
    with pytest.raises(TypeError), atomic_file(path) as file:
        file.write("no bytes")  # type: ignore[arg-type]
    assert [(found.name, found.read_bytes()) for found in tmp_path.iterdir()] == [("a.json", b"before")]
