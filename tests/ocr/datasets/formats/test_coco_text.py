from pathlib import Path
from typing import Any

import pytest

from ocr.datasets.formats.coco_text import read_coco_text
from ocr.errors import InputError
from tests.ocr.datasets.formats.json_files import points, problems, read_document

SQUARE = [0, 0, 9, 0, 9, 9, 0, 9]
IMAGE = {"id": 1, "file_name": "COCO_train2014_000000000001.jpg", "height": 48, "width": 64, "set": "train"}
WORD = {"id": 7, "image_id": 1, "bbox": [0, 0, 9, 9], "mask": SQUARE, "legibility": "legible", "utf8_string": "the"}


def document(*words: Any, **other: Any) -> dict[str, Any]:
    return {
        "imgs": {"1": IMAGE},
        "anns": {str(7 + number): word for number, word in enumerate(words)},
        "cats": {},
        **other,
    }


@pytest.mark.parametrize("outline", ["points", "mask", "polygon"])
def test_the_outline_of_each_version_is_read(outline: str, tmp_path: Path) -> None:
    word = {"id": 7, "image_id": 1, "bbox": [50, 50, 1, 1], outline: [0, 0, 9, 0, 9, 9.5]}
    (image,) = read_document(read_coco_text, tmp_path, document(word))
    assert points(image) == [[[0, 0], [9, 0], [9, 9.5]]]
    assert (image.declared_size, image.words[0].key) == ((48, 64), "7")


def test_a_word_with_a_box_only_is_a_rectangle(tmp_path: Path) -> None:
    (image,) = read_document(read_coco_text, tmp_path, document({"image_id": 1, "bbox": [1, 2, 3, 4]}))
    assert points(image) == [[[1, 2], [4, 2], [4, 6], [1, 6]]]


def test_illegible_words_and_the_text_dot_are_dont_care(tmp_path: Path) -> None:
    text_ocr = {"image_id": "1", "points": SQUARE}
    words = (
        WORD,
        {**WORD, "legibility": "illegible"},
        {**WORD, "utf8_string": "."},
        {**text_ocr, "utf8_string": "."},
        {**text_ocr, "utf8_string": "a."},
    )
    (image,) = read_document(read_coco_text, tmp_path, document(*words))
    assert [word.ignore for word in image.words] == [False, True, False, True, False]


def test_one_set_of_several_is_chosen(tmp_path: Path) -> None:
    both = document(WORD, imgs={"1": IMAGE, "2": {**IMAGE, "id": 2, "file_name": "b.jpg", "set": "val"}})
    (image,) = read_document(read_coco_text, tmp_path, both, annotation_set="val")
    assert (image.filename, image.words) == ("b.jpg", ())
    with pytest.raises(InputError, match=r"found several sets: train \(1 images\), val \(1 images\); expected one"):
        read_document(read_coco_text, tmp_path, both)
    with pytest.raises(InputError, match="expected annotation_set=test to be one of them"):
        read_document(read_coco_text, tmp_path, both, annotation_set="test")


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"mask": [0, 0, 9, 0]}, "mask = [0, 0, 9, 0] (4 numbers)"),
        ({"mask": "0,0,9,0,9,9"}, 'mask = "0,0,9,0,9,9"'),
        ({"mask": [0, 0, 9, 0, 9, None]}, "mask = [0, 0, 9, 0, 9, null]"),
        ({"mask": {"counts": [1], "size": [1, 1]}}, 'mask = {"counts": [1], "size": [1, 1]}'),
        ({"legibility": "maybe"}, 'legibility = "maybe"'),
        ({"legibility": 1}, "legibility = 1"),
    ],
)
def test_a_malformed_word_is_a_problem_of_that_word(change: dict[str, Any], found: str, tmp_path: Path) -> None:
    images = read_document(read_coco_text, tmp_path, document({**WORD, **change}, WORD))
    assert problems(images) == [("7", found)]
    assert [word.key for word in images[0].words] == ["8"]


@pytest.mark.parametrize(
    ("image", "found"),
    [
        (None, "the image = null"),
        ({**IMAGE, "file_name": ""}, 'file_name = ""'),
        ({**IMAGE, "width": "64"}, 'width = "64"'),
        ({"set": "train"}, "file_name = null"),
    ],
)
def test_a_malformed_image_is_a_problem_of_that_image(image: Any, found: str, tmp_path: Path) -> None:
    assert problems(read_document(read_coco_text, tmp_path, document(WORD, imgs={"1": image}))) == [(None, found)]


def test_links_and_words_that_differ_are_a_problem_of_the_image(tmp_path: Path) -> None:
    images = read_document(read_coco_text, tmp_path, document(WORD, imgToAnns={"1": [7, 8, 9]}))
    assert problems(images) == [(None, "3 words in imgToAnns, 1 in anns")]
    images = read_document(read_coco_text, tmp_path, document(WORD, imgToAnns={"1": "7"}))
    assert problems(images) == [(None, 'imgToAnns = "7"')]


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({"imgs": {"1": IMAGE}}, 'found keys ["imgs"]; expected COCO-Text or TextOCR: "imgs" and "anns" once each'),
        ({"anns": {}}, 'found keys ["anns"]'),
        ('{"imgs": {"1": {"file_name": "a.jpg"}}, "anns": {"1": {"image_id"', "not JSON: "),
        ('{"imgs": {}, "anns": {}, "anns": {}}', 'found the key "anns" 2 times'),
        ('{"imgs": {"1": {"file_name": "a.jpg"}, "1": {}}, "anns": {}}', 'imgs: found the id "1" twice'),
        ({"imgs": [IMAGE], "anns": {}}, "`{` is missing at character 9"),
        (
            document({**WORD, "image_id": 9}),
            'found words or links of image_id "9", which "imgs" does not list (1 such ids)',
        ),
        (document({**WORD, "image_id": None}), 'anns, word "7": found image_id = null'),
        (document({**WORD, "image_id": "\ud800\n"}), 'image_id "\\ud800\\n", which "imgs" does not list'),
        (document([1]), 'anns, word "7": found the word = [1]; expected an object'),
    ],
)
def test_a_file_that_cannot_be_read_as_a_whole_is_refused_in_one_line(content: Any, found: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read_document(read_coco_text, tmp_path, content)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}/annotations.json: ")
    assert found in message
    assert "\n" not in message
