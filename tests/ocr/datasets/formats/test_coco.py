from pathlib import Path
from typing import Any

import pytest

from ocr.datasets.formats.coco import examine_coco, read_coco
from ocr.datasets.formats.interface import Confidence
from ocr.datasets.formats.look import look_at
from ocr.errors import InputError
from tests.ocr.datasets.formats.json_files import points, problems, read_document

SQUARE = [0, 0, 9, 0, 9, 9, 0, 9]
TRIANGLE = [20, 20, 29, 20, 29, 29.5]
IMAGE = {"id": 1, "file_name": "a.jpg", "height": 48, "width": 64}
WORD = {"id": 7, "image_id": 1, "category_id": 1, "segmentation": [SQUARE], "iscrowd": 0, "bbox": [0, 0, 9, 9]}
RLE = {"counts": [272, 2, 4], "size": [48, 64]}


def document(*annotations: Any, **other: Any) -> dict[str, Any]:
    categories = [{"id": 1, "name": "text"}, {"id": 2, "name": "Don't care"}]
    return {"images": [IMAGE], "annotations": list(annotations), "categories": categories, **other}


def test_each_polygon_of_an_annotation_is_a_word(tmp_path: Path) -> None:
    (image,) = read_document(
        read_coco, tmp_path, document({**WORD, "segmentation": [SQUARE, TRIANGLE]}, {**WORD, "id": 8})
    )
    assert [word.key for word in image.words] == ["7.1", "7.2", "8"]
    assert points(image)[1] == [[20, 20], [29, 20], [29, 29.5]]
    assert (image.declared_size, image.source) == ((48, 64), "annotations.json")


def test_a_flat_segmentation_is_one_polygon(tmp_path: Path) -> None:
    (image,) = read_document(read_coco, tmp_path, document({**WORD, "segmentation": TRIANGLE}))
    assert points(image) == [[[20, 20], [29, 20], [29, 29.5]]]


def test_iscrowd_and_a_category_mark_dont_care_regions(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    words = (WORD, {**WORD, "iscrowd": 1}, {**WORD, "category_id": 2}, {"image_id": 1, "segmentation": [SQUARE]})
    (image,) = read_document(read_coco, tmp_path, document(*words))
    assert [word.ignore for word in image.words] == [False, True, True, False]
    assert [word.key for word in image.words] == ["7", "7", "7", "annotations[3]"]
    assert "every category is read as text: text (2), Don't care (1, don't-care)" in caplog.text


def test_annotations_may_stand_before_images_and_categories_last(tmp_path: Path) -> None:
    turned = dict(reversed(document(WORD, {**WORD, "category_id": 2}).items()))
    (image,) = read_document(read_coco, tmp_path, turned)
    assert [word.ignore for word in image.words] == [False, True]


def test_an_image_without_annotations_has_no_text_and_ids_may_be_text(tmp_path: Path) -> None:
    images = [{**IMAGE, "id": "x"}, {**IMAGE, "id": "1", "file_name": "b.jpg"}]
    first, second = read_document(read_coco, tmp_path, document(WORD, images=images))
    assert (first.words, first.problems, len(second.words)) == ((), (), 1)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"segmentation": RLE}, "segmentation as an RLE mask"),
        ({"segmentation": {"counts": "YZ_12", "size": [48, 64]}}, "segmentation as an RLE mask"),
        ({"segmentation": []}, "segmentation = [] (box)"),
        ({"segmentation": None, "bbox": None}, "segmentation = null (box)"),
        ({"segmentation": [[0, 0, 9, 0]]}, "segmentation = [0, 0, 9, 0] (4 numbers)"),
        ({"segmentation": [[0, 0, 9, 0, 9, 9, 9]]}, "segmentation = [0, 0, 9, 0, 9, 9, 9] (7 numbers)"),
        ({"segmentation": [[0, 0, 9, 0, 9, "9"]]}, 'segmentation = [0, 0, 9, 0, 9, "9"]'),
        ({"segmentation": [[[0, 0], [9, 0], [9, 9]]]}, "segmentation = [[0, 0], [9, 0], [9, 9]]"),
        ({"segmentation": [[0, 0, 9, 0, 9, 10**400]]}, "segmentation = [0, 0, 9, 0, 9, 1000000"),
        ({"segmentation": "0,0,9,0,9,9"}, 'segmentation = "0,0,9,0,9,9" (box)'),
        ({"iscrowd": "no"}, 'iscrowd = "no"'),
        ({"category_id": [1]}, "category_id = [1]"),
    ],
)
def test_a_malformed_annotation_is_a_problem_of_its_word(change: dict[str, Any], found: str, tmp_path: Path) -> None:
    images = read_document(read_coco, tmp_path, document({**WORD, **change}, {**WORD, "id": 8}))
    ((word, text),) = problems(images)
    assert word == "7"
    assert text.startswith(found)
    assert [word.key for word in images[0].words] == ["8"]


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"file_name": None}, "file_name = null"),
        ({"file_name": 7}, "file_name = 7"),
        ({"height": "48"}, 'height = "48"'),
        ({"width": [64]}, "width = [64]"),
    ],
)
def test_a_malformed_image_is_a_problem_of_that_image(change: dict[str, Any], found: str, tmp_path: Path) -> None:
    bad, good = read_document(read_coco, tmp_path, document(WORD, images=[{**IMAGE, **change}, {**IMAGE, "id": 2}]))
    assert problems([bad, good]) == [(None, found)]
    assert len(bad.words) == 1


def test_sizes_may_be_missing(tmp_path: Path) -> None:
    (image,) = read_document(read_coco, tmp_path, document(WORD, images=[{"id": 1, "file_name": "a.jpg"}]))
    assert (image.declared_size, image.problems) == ((None, None), ())


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({"images": [IMAGE]}, 'found keys ["images"]; expected COCO: "images" and "annotations" once each'),
        ({"annotations": [WORD]}, 'found keys ["annotations"]'),
        ([], "`{` is missing at character 0"),
        ("", "not JSON: `{` is missing in an empty file"),
        ('{"images": [], "annotations": [{"id": 1', "not JSON: Expecting ',' delimiter"),
        ('{"images": [], "annotations": [], "images": []}', 'found the key "images" 2 times'),
        ({"images": {"a.jpg": {}}, "annotations": []}, "`[` is missing at character 11"),
        (document(WORD, images=[None]), "images[0]: found images[0] = null; expected an object"),
        (document(WORD, images=[{"file_name": "a.jpg"}]), "images[0]: found id = null; expected a number or text"),
        (document(WORD, images=[IMAGE, IMAGE]), 'images[1]: found the id "1" a second time; expected each id once'),
        (document("word"), 'annotations[0]: found annotations[0] = "word"; expected an object'),
        (document({"id": 7, "segmentation": [SQUARE]}), "annotations[0]: found image_id = null"),
        (
            document(WORD, {**WORD, "image_id": 9}),
            'found annotations with image_id "9", which "images" does not list (1 such',
        ),
        (
            document(WORD, {**WORD, "category_id": 9}),
            'found annotations with category_id "9", which "categories" does not',
        ),
        (document(WORD, categories=[{"name": "text"}]), "categories: found id = null"),
        (document({**WORD, "segmentation": []}), "1 of them hold boxes only; copy each bbox into segmentation"),
        (document({**WORD, "segmentation": RLE}), "1 of them hold RLE masks; export polygons"),
        (document({"image_id": 1, "keypoints": [1, 2, 2]}), "hold keypoints only; export an instance segmentation"),
        (document({"image_id": 1, "caption": "a dog"}), "hold captions; export an instance segmentation"),
        (document({"image_id": 1, "segments_info": []}), "hold a panoptic segmentation"),
        (document({"image_id": 1}), "hold annotations without a segmentation"),
    ],
)
def test_a_file_that_cannot_be_read_as_a_whole_is_refused_in_one_line(content: Any, found: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read_document(read_coco, tmp_path, content)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}/annotations.json: ")
    assert found in message
    assert "\n" not in message


def test_a_file_is_recognised_by_either_list(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for text in (
        '{"info": {}, "images": [{"id": 1, "file_name": "a.jpg"}, {"id',
        '{"annotations": [{"image_id": 1}, {',
    ):
        path.write_text(text)
        assert examine_coco(look_at(path)).confidence == Confidence.CERTAIN
    path.write_text('{"images": {"a.jpg": {}}, "annotations": 1}')
    assert examine_coco(look_at(path)).confidence == Confidence.NONE
