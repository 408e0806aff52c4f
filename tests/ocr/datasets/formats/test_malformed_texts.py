"""A malformed line is a problem with its number, in one line; the others are read."""

from pathlib import Path

import pytest

from ocr.datasets.audit import load_manifest
from ocr.datasets.audit_report import BadDataError
from ocr.datasets.schemas import DatasetConfig
from ocr.errors import InputError
from tests.ocr.datasets.formats.example_set import read, write_images

QUAD = "20,10,120,10,120,34,20,34"
OFFSETS = "0,6,20,3,40,1,60,0,80,1,100,3,120,6,120,30,100,27,80,25,60,24,40,25,20,27,0,30"
TOTALTEXT = "x: [[20 120 120 20]], y: [[10 10 34 34]], ornt: [u'h'], transcriptions: [u'A']"

LINES = {
    "mlt_with_seven_numbers": ("mlt", f"{QUAD},Latin,A", "1,2,3,4,5,6,7,Latin,A", "7 numbers at the start"),
    "mlt_without_coordinates": ("mlt", f"{QUAD},Latin,A", "Latin,###", "0 numbers at the start"),
    "sroie_that_ends_early": ("sroie", f"{QUAD},A", "20,10,120", "3 numbers at the start"),
    "db_with_two_readings": ("db", f"{QUAD},A", f"{QUAD},1,2,A", "10 numbers at the start"),
    "xywh_with_three_numbers": ("xywh", "20,10,100,24,A", "20,10,100,A", "3 numbers at the start"),
    "xywh_of_negative_width": ("xywh", "20,10,100,24,A", "20,10,-5,24,A", "20,10,-5,24: right, bottom = 15, 34"),
    "totaltext_with_a_lost_value": (
        "totaltext",
        TOTALTEXT,
        TOTALTEXT.replace("34 34", "34"),
        "4 values of x and 3 of y",
    ),
    "totaltext_with_a_word_for_a_number": (
        "totaltext",
        TOTALTEXT,
        TOTALTEXT.replace("20 120", "20 l20"),
        "x: [[20 l20",
    ),
    "totaltext_without_y": (
        "totaltext",
        TOTALTEXT,
        "x: [[20 120 120 20]], ornt: [u'h']",
        '"x: [[20 120 120 20]], ornt',
    ),
    "ctw1500_outside_its_rectangle": (
        "ctw1500",
        f"40,40,160,70,{OFFSETS}",
        f"40,40,160,70,{OFFSETS[:-2]}300",
        "32 numbers whose offsets leave the rectangle 40,40,160,70",
    ),
    "ctw1500_with_31_numbers": ("ctw1500", f"40,40,160,70,{OFFSETS}", f"40,40,160,70,{OFFSETS[:-3]}", "31 numbers"),
    "yolo_in_pixels": ("yolo", "0 0.1 0.1 0.5 0.1 0.5 0.2", "0 20 10 120 10 120 34", "a coordinate 20"),
    "yolo_with_five_coordinates": ("yolo", "0 0.1 0.1 0.5 0.1 0.5 0.2", "0 0.1 0.1 0.5 0.1 0.5", "6 numbers"),
    "yolo_with_a_name": ("yolo", "0 0.1 0.1 0.5 0.1 0.5 0.2", "0 0.1 0.1 0.5 0.1 0.5 text", "the text 'text'"),
    "yolo_with_nan": ("yolo", "0 0.1 0.1 0.5 0.1 0.5 0.2", "0 nan 0.1 0.5 0.1 0.5 0.2", "a coordinate nan"),
}


@pytest.mark.parametrize("name", LINES)
def test_a_malformed_line_is_named_with_its_number(name: str, tmp_path: Path) -> None:
    form, good, bad, found = LINES[name]
    images = write_images(tmp_path / "img", ["img_1.jpg"])
    (tmp_path / "gt").mkdir()
    (tmp_path / "gt/img_1.txt").write_text("\n".join([*[good] * 10, bad, good]))
    (image,) = read(tmp_path / "gt", images, form)
    assert len(image.words) == 11
    (problem,) = image.problems
    assert image.place(problem.word) == "img_1.txt:11 (img_1.jpg)"
    assert problem.found.startswith(found)
    assert "\n" not in problem.found + problem.expected


ROWS = {
    "no_json": ('img_1.jpg\t[{"transcription": "A", "points": [[1, 2', "which is not JSON"),
    "no_list": ("img_1.jpg\t{}", "found {}"),
    "no_tab": ("img_1.jpg []", "found no tab"),
    "a_word_without_points": ('img_1.jpg\t[{"transcription": "A"}]', "points = None"),
    "flat_points": ('img_1.jpg\t[{"transcription": "A", "points": [1, 2, 3, 4, 5, 6]}]', r"points = \[1, 2, 3"),
    "points_as_text": (
        'img_1.jpg\t[{"transcription": "A", "points": [["1", "2"], ["3", "4"], ["5", "6"]]}]',
        "points = ",
    ),
    "a_huge_number": (
        'img_1.jpg\t[{"transcription": "A", "points": [[1%s, 2], [3, 4], [5, 6]]}]' % ("0" * 400),
        "points = ",
    ),
    "a_list_for_a_word": ('img_1.jpg\t[["A"]]', r"found \['A'\]"),
}


@pytest.mark.parametrize("name", ROWS)
def test_a_malformed_paddleocr_line_is_named_with_its_number(name: str, tmp_path: Path) -> None:
    row, found = ROWS[name]
    images = write_images(tmp_path / "img", ["img_1.jpg", "img_2.jpg"])
    good = '[{"transcription": "A", "points": [[20, 10], [120, 10], [120, 34]]}]'
    (tmp_path / "Label.txt").write_text(f"img_2.jpg\t{good}\n{row}\n")
    config = DatasetConfig(image_path=str(images.path), annotation_path=str(tmp_path / "Label.txt"))
    with pytest.raises(BadDataError, match=rf"Label\.txt:2 \(img_1\.jpg.*\n?.*{found}"):
        load_manifest(config, max_megapixels=100)


def test_a_file_of_one_images_json_is_no_paddleocr_file(tmp_path: Path) -> None:
    (tmp_path / "Label.txt").write_text("img_1.jpg A\nimg_2.jpg B\n")
    with pytest.raises(
        InputError, match=r"Label\.txt:1: found 'img_1\.jpg A'; expected an image path, a tab and a JSON"
    ):
        read(tmp_path / "Label.txt", write_images(tmp_path / "img", []), "paddleocr")
