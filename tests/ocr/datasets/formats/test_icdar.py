import json
from pathlib import Path

import numpy as np
import pytest

from ocr.datasets.formats.annotated import AnnotatedImage
from ocr.datasets.formats.icdar import read_icdar
from ocr.datasets.formats.image_folder import ImageFolder
from ocr.datasets.formats.upstage import read_upstage
from ocr.errors import InputError

EXTENSIONS = (".jpg", ".png")
QUAD = "1,2,11,2,11,8,1,8"
QUAD_POINTS = [[1, 2], [11, 2], [11, 8], [1, 8]]


def read(tmp_path: Path, **contents: str) -> list[AnnotatedImage]:
    """Reads text files given as stem=content."""
    for stem, content in contents.items():
        (tmp_path / f"{stem}.txt").write_bytes(content.encode())
    return list(read_icdar(tmp_path, ImageFolder(tmp_path, EXTENSIONS)))


def test_a_text_file_of_more_lines_than_an_image_has_texts_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    with pytest.raises(InputError, match=r"a\.txt: found 20,001 lines; expected at most 20,000"):
        read(tmp_path, a="a\n" * 20_001)


def test_quads_with_byte_order_mark_crlf_commas_and_dont_care_words(tmp_path: Path) -> None:
    (tmp_path / "img_1.jpg").touch()
    lines = [QUAD + ",one, two, three", QUAD + ",###", "", QUAD + ", * ", QUAD + ",", QUAD, QUAD + ",1999"]
    (image,) = read(
        tmp_path, gt_img_1="\ufeff" + "\r\n".join([*lines, QUAD + ',"1, 2, 3, 4"', QUAD + ",12,50"]) + "\r\n"
    )
    assert (image.filename, image.source, image.problems) == ("img_1.jpg", "gt_img_1.txt", ())
    assert [word.key for word in image.words] == ["1", "2", "4", "5", "6", "7", "8", "9"]
    assert [word.ignore for word in image.words] == [False, True, True, False, False, False, False, False]
    for word in image.words:
        np.testing.assert_array_equal(word.points, QUAD_POINTS)


@pytest.mark.parametrize("line", ['38, 43, 920, 215, "Tiredness"', '38 43 920 215 "Tired, 1 2"', "38,43,920,215,7"])
def test_rectangles_of_icdar_2013(tmp_path: Path, line: str) -> None:
    (image,) = read(tmp_path, gt_img_1=line)
    np.testing.assert_array_equal(image.words[0].points, [[38, 43], [920, 43], [920, 215], [38, 215]])


def test_polygons_of_any_length(tmp_path: Path) -> None:
    (image,) = read(
        tmp_path, a="0,0,5,0,9,1,9,5,5,4,0,4,curved\n0,0,5,0,9,1,9,5,5,4,0,4,1999\n0,0,5,0,9,1,9,5,5,4\n0,0,4,0,4,4,x"
    )
    assert [len(word.points) for word in image.words] == [6, 6, 5, 3]
    np.testing.assert_array_equal(image.words[0].points[-2:], [[5, 4], [0, 4]])


def test_decimals_exponents_signs_and_nan_are_numbers(tmp_path: Path) -> None:
    (image,) = read(tmp_path, a="-1.5,2.,1.1e+01,2,11,.5,nan,8,text")
    np.testing.assert_array_equal(image.words[0].points, [[-1.5, 2], [11, 2], [11, 0.5], [np.nan, 8]])


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("1,2,3,4,5,6,7,text", "7 numbers at the start of '1,2,3,4,5,6,7,text'"),
        ("some words", "0 numbers at the start of"),
        ("1,2,3,4,5,6,7,8,9,10,text", "10 numbers at the start of"),
        ("1,2,3,4,5,6,7,8,9,10,11,12", "12 numbers at the start of"),
    ],
)
def test_a_line_that_fits_no_or_two_readings_is_named_with_its_number(tmp_path: Path, line: str, found: str) -> None:
    (image,) = read(tmp_path, gt_a=f"{QUAD},x\n{line}\n{QUAD},y")
    (problem,) = image.problems
    assert image.place(problem.word) == "gt_a.txt:2 (a.jpg)"
    assert problem.found.startswith(found)
    assert problem.expected.startswith("8")
    assert [word.key for word in image.words] == ["1", "3"]


def test_an_empty_file_is_an_image_without_text(tmp_path: Path) -> None:
    (image,) = read(tmp_path, gt_a="\n")
    assert (image.words, image.problems) == ((), ())


def test_a_text_file_finds_its_image_by_stem_and_extension(tmp_path: Path) -> None:
    for name in ("a.png", "gt_b.jpg", "c.gif", "d.JPG"):
        (tmp_path / name).touch()
    images = read(tmp_path, gt_a=QUAD, gt_b=QUAD, gt_c=QUAD, d=QUAD)
    assert [image.filename for image in images] == ["d.JPG", "a.png", "gt_b.jpg", "c.gif"]


def test_two_images_of_one_stem_are_a_problem(tmp_path: Path) -> None:
    for name in ("a.png", "a.jpg"):
        (tmp_path / name).touch()
    (image,) = read(tmp_path, gt_a=QUAD)
    assert [(part.word, part.found) for part in image.problems] == [(None, "images a.jpg and a.png")]


def test_two_text_files_of_one_image_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.txt and gt_a\.txt belong to the same image"):
        read(tmp_path, a=QUAD, gt_a=QUAD)


def test_a_folder_without_text_files_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"found no \.txt file; expected a folder with one text file per image"):
        read(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"missing: found no \.txt file"):
        list(read_icdar(tmp_path / "missing", ImageFolder(tmp_path, EXTENSIONS)))


@pytest.mark.parametrize("name", ["sroie", "icdar15"])
def test_real_annotations_survive_a_round_trip_through_icdar_text(
    name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(name) / "jsons" / "val.json"
    ignored: dict[str, list[bool]] = {}
    for filename, entry in sorted(json.loads(path.read_text())["images"].items()):
        lines, ignored[filename] = [], []
        for word in entry["words"].values():
            text = "###" if word.get("illegibility") else word["transcription"]
            ignored[filename].append(text in ("###", "*"))  # one receipt has a line that reads "*"
            lines.append(",".join([str(value) for point in word["points"] for value in point] + [text]))
        (tmp_path / f"gt_{Path(filename).stem}.txt").write_text("\r\n".join(lines), encoding="utf-8-sig", newline="")
    expected = sorted(read_upstage(path), key=lambda image: image.filename)
    assert len(expected) == len(ignored) > 0
    images = list(read_icdar(tmp_path, ImageFolder(path.parent, EXTENSIONS)))
    assert [image.filename for image in images] == [image.filename for image in expected]
    for image, original in zip(images, expected, strict=True):
        assert image.problems == ()
        assert [word.ignore for word in image.words] == ignored[image.filename]
        for word, other in zip(image.words, original.words, strict=True):
            np.testing.assert_array_equal(word.points, other.points)


@pytest.mark.parametrize("blank", ["\x1c", "\x1d", "\x1f", "\u2028", "\x85"])
def test_a_number_behind_an_odd_blank_is_a_problem_of_its_line(tmp_path: Path, blank: str) -> None:
    inside = QUAD.replace(",2", f",{blank}2", 1)
    (image,) = read(tmp_path, a=f"{QUAD}\n{blank}{QUAD}\n{inside}\n{QUAD}\n{QUAD}")
    assert [word.key for word in image.words] == ["1", "4", "5"]
    assert [problem.word for problem in image.problems] == ["2", "3"]


def test_a_line_of_a_hundred_thousand_digits_is_read_at_once(tmp_path: Path) -> None:
    (image,) = read(tmp_path, a=f"{QUAD}\n{'1' * 100_000}x,{QUAD}\n{QUAD}")
    assert [problem.word for problem in image.problems] == ["2"]
