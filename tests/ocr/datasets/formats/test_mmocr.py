from pathlib import Path
from typing import Any

import pytest

from ocr.datasets.formats.image_folder import ImageFolder
from ocr.datasets.formats.mmocr import read_mmocr
from ocr.errors import InputError
from tests.ocr.datasets.formats.json_files import points, problems, read_document

WORD = {"polygon": [0, 0, 9, 0, 9, 9, 0, 9.5], "bbox": [0, 0, 9, 10], "bbox_label": 0, "ignore": False}


def document(*instances: Any, **image: Any) -> dict[str, Any]:
    entry = {"img_path": "a.jpg", "height": 48, "width": 64, "instances": list(instances), **image}
    return {"metainfo": {"dataset_type": "TextDetDataset"}, "data_list": [entry]}


def test_polygons_boxes_and_flags_are_read(tmp_path: Path) -> None:
    box = {"bbox": [1, 2, 4, 6], "bbox_label": 0, "ignore": True}
    (image,) = read_document(read_mmocr, tmp_path, document(WORD, box, {**WORD, "text": "spotted"}))
    assert points(image)[:2] == [[[0, 0], [9, 0], [9, 9], [0, 9.5]], [[1, 2], [4, 2], [4, 6], [1, 6]]]
    assert [word.ignore for word in image.words] == [False, True, False]
    assert [word.key for word in image.words] == ["0", "1", "2"]
    assert (image.filename, image.declared_size, image.source) == ("a.jpg", (48, 64), "annotations.json")


def test_a_path_that_starts_above_the_image_folder_is_found(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    (image,) = read_document(read_mmocr, tmp_path, document(img_path="textdet_imgs/train/a.jpg"))
    assert image.filename == "a.jpg"


def test_images_come_before_the_rest_of_the_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"data_list": [{"img_path": "a.jpg", "instances": []}, {"img_path": "b.jpg"}, cut')
    images = read_mmocr(path, ImageFolder(tmp_path, (".jpg",)))
    assert [next(images).filename, next(images).filename] == ["a.jpg", "b.jpg"]
    with pytest.raises(InputError, match="not JSON: Expecting value"):
        next(images)


@pytest.mark.parametrize(
    ("instance", "found"),
    [
        (None, "the instance = null"),
        ({"bbox_label": 0}, 'keys ["bbox_label"]'),
        ({**WORD, "polygon": [0, 0, 9, 0, 9, 9, 0]}, "polygon = [0, 0, 9, 0, 9, 9, 0] (7 numbers)"),
        ({**WORD, "polygon": [[0, 0], [9, 0], [9, 9]]}, "polygon = [[0, 0], [9, 0], [9, 9]]"),
        ({**WORD, "polygon": [0, 0, 9, 0, "9", 9]}, 'polygon = [0, 0, 9, 0, "9", 9]'),
        ({"bbox": [10, 20, 5, 5]}, "bbox = [10, 20, 5, 5]"),
        ({"bbox": [1, 2, 3]}, "bbox = [1, 2, 3]"),
        ({**WORD, "ignore": "false"}, 'ignore = "false"'),
    ],
)
def test_a_malformed_instance_is_a_problem_of_its_word(instance: Any, found: str, tmp_path: Path) -> None:
    images = read_document(read_mmocr, tmp_path, document(WORD, instance))
    assert problems(images) == [("1", found)]
    assert len(images[0].words) == 1


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"img_path": None}, "img_path = null"),
        ({"height": "48"}, 'height = "48"'),
        ({"instances": {"0": WORD}}, 'instances = {"0": {"polygon": '),
    ],
)
def test_a_malformed_image_is_a_problem_of_that_image(change: dict[str, Any], found: str, tmp_path: Path) -> None:
    ((word, text),) = problems(read_document(read_mmocr, tmp_path, document(**change)))
    assert word is None
    assert text.startswith(found)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({"metainfo": {}}, 'found keys ["metainfo"]; expected MMOCR 1.x: {"metainfo": ..., "data_list": [...]}'),
        ('{"data_list": [], "data_list": []}', 'found the key "data_list" 2 times'),
        ({"metainfo": {}, "data_list": {}}, "`[` is missing"),
        ([document()], "`{` is missing at character 0"),
        ('{"metainfo": {}, "data_list": [{"img_path": "a.jpg"', "not JSON: "),
        ('{"metainfo": ' + "[" * 100_000, "brackets nested too deep"),
        (document({"text": "word"}), "found texts without polygons, the labels of text recognition"),
    ],
)
def test_a_file_that_cannot_be_read_as_a_whole_is_refused_in_one_line(content: Any, found: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read_document(read_mmocr, tmp_path, content)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}/annotations.json: ")
    assert found in message
    assert "\n" not in message
