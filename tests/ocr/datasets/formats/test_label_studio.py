from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ocr.datasets.formats.interface import Confidence
from ocr.datasets.formats.label_studio import examine_label_studio, read_label_studio
from ocr.datasets.formats.look import look_at
from ocr.errors import InputError
from tests.ocr.datasets.formats.json_files import points, problems, read_document

SIZE = {"original_width": 200, "original_height": 100, "image_rotation": 0}
BOX = {"x": 10, "y": 20, "width": 30, "height": 40, "rotation": 0, "rectanglelabels": ["Text"]}
BOX_PIXELS = [[20, 20], [80, 20], [80, 60], [20, 60]]
RESULT = {"id": "r1", "type": "rectanglelabels", "value": BOX, **SIZE}


def task(*results: Any, image: str = "a.jpg", **other: Any) -> dict[str, Any]:
    return {"id": 1, "data": {"image": image}, "annotations": [{"id": 5, "result": list(results)}], **other}


def read(folder: Path, *tasks: Any) -> Any:
    return read_document(read_label_studio, folder, list(tasks))


def test_percentages_become_pixels(tmp_path: Path) -> None:
    polygon = {**RESULT, "id": "r2", "value": {"points": [[0, 0], [50, 0], [50, 25.5]], "polygonlabels": ["Text"]}}
    (image,) = read(tmp_path, task(RESULT, polygon))
    assert points(image) == [BOX_PIXELS, [[0, 0], [100, 0], [100, 25.5]]]
    assert [word.key for word in image.words] == ["r1", "r2"]
    assert (image.filename, image.declared_size, image.source) == ("a.jpg", (100, 200), "annotations.json")


def test_a_turned_rectangle_turns_clockwise_in_pixels_about_its_corner(tmp_path: Path) -> None:
    # 60 x 40 pixels: after 90 degrees, the upper side (60) points down and the left side (40) points left.
    (image,) = read(tmp_path, task({**RESULT, "value": {**BOX, "rotation": 90}}))
    np.testing.assert_allclose(image.words[0].points, [[20, 20], [20, 80], [-20, 80], [-20, 20]], atol=1e-12)


def test_results_of_one_region_are_one_word(tmp_path: Path) -> None:
    shape = {key: value for key, value in BOX.items() if key != "rectanglelabels"}
    results = [
        {**RESULT, "type": "rectangle", "value": shape},
        {**RESULT, "type": "labels", "value": {**shape, "labels": ["Text"]}},
        {**RESULT, "type": "textarea", "value": {**shape, "text": ["###"]}},
        {"from_id": "r1", "to_id": "r2", "type": "relation"},
        {"id": "c1", "type": "choices", "value": {"choices": ["receipt"]}},
    ]
    (image,) = read(tmp_path, task(*results))
    assert points(image) == [BOX_PIXELS]
    assert image.words[0].ignore
    assert image.problems == ()


def test_a_label_marks_a_dont_care_region(tmp_path: Path) -> None:
    (image,) = read(tmp_path, task({**RESULT, "value": {**BOX, "rectanglelabels": ["Illegible"]}}))
    assert image.words[0].ignore


def test_the_size_of_the_file_stands_in_for_a_missing_one(tmp_path: Path) -> None:
    Image.new("L", (200, 100)).save(tmp_path / "a.jpg")
    (image,) = read(tmp_path, task({"id": "r1", "type": "rectanglelabels", "value": BOX}))
    assert points(image) == [BOX_PIXELS]
    assert image.declared_size == (None, None)


@pytest.mark.parametrize(
    "address",
    [
        "a b.jpg",
        "/data/upload/3/1a2b3c4d-a b.jpg",
        "/data/local-files/?d=receipts/a%20b.jpg",
        "/data/local-files/?d=receipts/a b.jpg",
        "https://host:8080/bucket/a%20b.jpg?token=1",
        "s3://bucket/receipts/a b.jpg",
        "/home/me/receipts/a b.jpg",
    ],
)
@pytest.mark.parametrize("on_disk", ["a b.jpg", "receipts/a b.jpg"])
def test_the_file_is_found_behind_every_kind_of_address(address: str, on_disk: str, tmp_path: Path) -> None:
    (tmp_path / "receipts").mkdir()
    (tmp_path / on_disk).touch()
    (image,) = read(tmp_path, task(image=address))
    assert image.filename == on_disk or "receipts" not in address


@pytest.mark.parametrize("address", ["/data/local-files/?d=receipts/a.jpg", "https://host/receipts/a.jpg?token=1"])
def test_of_two_files_the_one_in_the_named_folder_is_meant(address: str, tmp_path: Path) -> None:
    (tmp_path / "receipts").mkdir()
    for name in ("a.jpg", "receipts/a.jpg"):
        (tmp_path / name).touch()
    (image,) = read(tmp_path, task(image=address))
    assert image.filename == "receipts/a.jpg"


def test_a_file_with_the_prefix_of_its_upload_comes_first(tmp_path: Path) -> None:
    for name in ("a.jpg", "1a2b3c4d-a.jpg"):
        (tmp_path / name).touch()
    (image,) = read(tmp_path, task(image="/data/upload/3/1a2b3c4d-a.jpg"))
    assert image.filename == "1a2b3c4d-a.jpg"


def test_an_image_that_is_not_there_is_named_without_the_address(tmp_path: Path) -> None:
    for address in (
        "/data/upload/3/1a2b3c4d-a.jpg",
        "https://host/set/a.jpg?token=1",
        "/data/local-files/?d=set/a.jpg",
    ):
        (image,) = read(tmp_path, task(image=address))
        assert image.filename == "a.jpg"


def test_any_key_of_data_may_hold_the_image(tmp_path: Path) -> None:
    (image,) = read(tmp_path, {**task(), "data": {"title": "receipt", "photo": "b.png"}})
    assert image.filename == "b.png"


def test_the_submitted_or_true_annotation_is_read(tmp_path: Path) -> None:
    skipped = {"was_cancelled": True, "result": []}
    good, other = {"result": [RESULT]}, {"result": []}
    images = read(
        tmp_path,
        task(annotations=[skipped, good]),
        task(annotations=[other, {**good, "ground_truth": True}]),
        task(annotations=[skipped]),
        task(annotations=[], predictions=[good]),
        {"data": {"image": "a.jpg"}, "completions": [good]},
    )
    assert [len(image.words) for image in images] == [1, 1, 1]


def test_an_annotation_without_regions_is_an_image_without_text(tmp_path: Path) -> None:
    (image,) = read(tmp_path, task())
    assert (image.words, image.problems) == ((), ())


def test_the_minimal_export_is_read(tmp_path: Path) -> None:
    shape = {key: value for key, value in BOX.items() if key != "rectanglelabels"}
    second = {**shape, "x": 50}
    minimal = {
        "ocr": "/data/upload/1/1a2b3c4d-a.jpg",
        "id": 1,
        "bbox": [{**shape, **SIZE}, {**second, **SIZE}],
        "label": [{**shape, "labels": ["Text"], **SIZE}, {**second, "labels": ["Text"], **SIZE}],
        "transcription": ["total", "###"],
        "annotation_id": 3,
    }
    (image,) = read(tmp_path, minimal)
    assert points(image) == [BOX_PIXELS, [[100, 20], [160, 20], [160, 60], [100, 60]]]
    assert [(word.key, word.ignore) for word in image.words] == [("0", False), ("1", True)]


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"value": {"format": "rle", "rle": [0, 1], "brushlabels": ["Text"]}}, "a brush mask"),
        ({"value": {"x": 1, "y": 1, "radiusX": 2, "radiusY": 3}}, "an ellipse"),
        ({"value": {"x": 1, "y": 1, "width": 0.3, "keypointlabels": ["Text"]}}, "a key point"),
        ({"value": {"vertices": [], "closed": True}}, "a vector"),
        ({"value": {**BOX, "x": "10"}}, 'x = "10"'),
        ({"value": {**BOX, "rotation": "90"}}, 'rotation = "90"'),
        ({"value": {"points": [[0, 0], [50, 0]]}}, "points = [[0, 0], [50, 0]]"),
        ({"value": {"points": [[0, 0], [50, 0], [50, None]]}}, "points = [[0, 0], [50, 0], [50, null]]"),
        ({"value": {"x": 1, "height": 3}}, "y = null"),
        ({"original_width": None}, "no original_width and original_height"),
        ({"original_width": "200"}, 'original_width = "200"'),
        ({"original_height": 0}, "original_width x original_height = 200 x 0"),
        ({"original_height": 99}, "original_width x original_height = 200 x 99"),
        ({"image_rotation": 90}, "an image turned by 90 degrees in the labelling window"),
    ],
)
def test_a_malformed_region_is_a_problem_of_its_word(change: dict[str, Any], found: str, tmp_path: Path) -> None:
    images = read(tmp_path, task({**RESULT, "id": "r0"}, {**RESULT, **change}))
    assert problems(images) == [("r1", found)]
    assert len(images[0].words) == 1


@pytest.mark.parametrize(
    ("bad", "found"),
    [
        (7, "the task = 7"),
        (task(data=None), "data = null"),
        (task(data={"text": "no image"}), 'data {"text": "no image"}'),
        (task(image="data:image/png;base64,AAAA"), "an image inside the task (data:)"),
        (task(annotations={"result": []}), 'annotations = {"result": []}'),
        (task(annotations=[5]), "an annotation = 5"),
        (
            task(annotations=[{"result": []}, {"result": []}]),
            "2 annotations of one image, 0 of them marked as ground truth",
        ),
        (task(annotations=[{"result": "x"}]), 'result = "x"'),
        (task("x"), 'a result = "x"'),
        (task({**RESULT, "value": [1]}), "value = [1]"),
    ],
)
def test_a_malformed_task_is_a_problem_of_its_image(bad: Any, found: str, tmp_path: Path) -> None:
    images = read(tmp_path, task(RESULT), bad)
    assert problems(images) == [(None, found)]
    assert len(images[0].words) == 1


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({"tasks": []}, "found a JSON value that begins with '{'; expected a list of Label Studio tasks"),
        ("", "found a JSON value that begins with ''"),
        ('[{"id": 1, "data": {"image": "a.jpg"', "not JSON: "),
        ("[" * 100_000, "brackets nested too deep"),
        ([task(annotations=[]), task(annotations=[])], "none of the 2 tasks has a submitted annotation"),
    ],
)
def test_a_file_that_cannot_be_read_as_a_whole_is_refused_in_one_line(content: Any, found: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read_document(read_label_studio, tmp_path, content)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}/annotations.json: ")
    assert found in message
    assert "\n" not in message


def test_a_list_of_other_things_is_not_recognised(tmp_path: Path) -> None:
    for text in ("[]", "[1]", '[{"id": 1}]', '[{"data": 1}]', '{"data": {}}'):
        (tmp_path / "a.json").write_text(text)
        assert examine_label_studio(look_at(tmp_path / "a.json")).confidence == Confidence.NONE
