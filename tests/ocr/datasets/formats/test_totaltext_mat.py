from pathlib import Path

import numpy as np
import pytest

from ocr.datasets.formats.annotated import AnnotatedImage
from ocr.datasets.formats.image_folder import ImageFolder
from ocr.datasets.formats.totaltext_mat import read_totaltext_mat

sio = pytest.importorskip("scipy.io", reason="SciPy writes the MAT-files of these tests")
XS, YS = np.array([[1, 40, 300, 41]], np.int16), np.array([[2, 2, 60, 61]], np.uint8)


def read(
    tmp_path: Path, rows: list[list[object]], name: str = "polygt", file: str = "poly_gt_img1.mat"
) -> AnnotatedImage:
    cells = np.empty((len(rows), len(rows[0]) if rows else 0), object)
    for place, row in enumerate(rows):
        cells[place] = row
    sio.savemat(tmp_path / file, {name: cells}, do_compression=True)
    (image,) = read_totaltext_mat(tmp_path, ImageFolder(tmp_path, (".jpg",)))
    return image


@pytest.mark.parametrize(("name", "file"), [("polygt", "poly_gt_img1.mat"), ("gt", "gt_img1.mat")])
def test_words_and_both_marks_of_dont_care(tmp_path: Path, name: str, file: str) -> None:
    rows = [["x:", XS, "y:", YS, "word", "c"], ["x:", XS, "y:", YS, "#", "h"], ["x:", XS, "y:", YS, "word", "#"]]
    image = read(tmp_path, rows, name, file)
    assert (image.filename, image.source, image.problems) == ("img1.jpg", file, ())
    assert [(word.key, word.ignore) for word in image.words] == [("1", False), ("2", True), ("3", True)]
    for word in image.words:
        np.testing.assert_array_equal(word.points, [[1, 2], [40, 2], [300, 60], [41, 61]])


def test_empty_cells_of_text_and_orientation_are_no_mark(tmp_path: Path) -> None:
    image = read(tmp_path, [["x:", XS, "y:", YS, np.zeros((0, 0)), np.zeros((0, 0))]])
    assert [word.ignore for word in image.words] == [False]


def test_an_image_without_words(tmp_path: Path) -> None:
    image = read(tmp_path, [])
    assert (image.words, image.problems) == ((), ())


@pytest.mark.parametrize("row", [["x:", XS, "y:", YS[:, :3], "a", "c"], ["x:", "1 2", "y:", YS, "a", "c"]])
def test_a_word_of_another_form_is_named(tmp_path: Path, row: list[object]) -> None:
    image = read(tmp_path, [row, ["x:", XS, "y:", YS, "a", "c"]])
    assert [problem.word for problem in image.problems] == ["1"]
    assert [word.key for word in image.words] == ["2"]


def test_rectangles_and_other_variables_are_refused_by_name(tmp_path: Path) -> None:
    assert "1 x 8" in read(tmp_path, [[1, 2, 3, 4, 5, 6, "a", "c"]]).problems[0].found
    assert "other" in read(tmp_path, [["a"]], name="other").problems[0].found


@pytest.mark.parametrize("content", [b"", b"\x89HDF", b"text" * 99])
def test_a_file_that_is_no_mat_file_is_a_problem_of_its_image(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "gt_img1.mat").write_bytes(content)
    (image,) = read_totaltext_mat(tmp_path, ImageFolder(tmp_path, (".jpg",)))
    assert (image.filename, image.words, len(image.problems)) == ("img1.jpg", (), 1)


def test_a_folder_without_mat_files_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"found no \.mat file"):
        list(read_totaltext_mat(tmp_path, ImageFolder(tmp_path, (".jpg",))))
