import json
from pathlib import Path
from typing import Any

import pytest

from ocr.datasets.formats.annotated import AnnotatedImage
from ocr.datasets.formats.image_folder import ImageFolder
from ocr.datasets.formats.interface import Confidence
from ocr.datasets.formats.labelme import examine_labelme, read_labelme
from ocr.datasets.formats.look import look_at
from tests.ocr.datasets.formats.json_files import points, problems

QUAD = [[0, 0], [9, 0], [9, 9], [0, 9.5]]
SHAPE = {"label": "text", "points": QUAD, "shape_type": "polygon", "group_id": None, "flags": {}}


def document(*shapes: Any, **other: Any) -> dict[str, Any]:
    image = {"imagePath": "a.jpg", "imageData": None, "imageHeight": 48, "imageWidth": 64}
    return {"version": "5.4.1", "shapes": list(shapes), **image, **other}


def read_files(folder: Path, **files: Any) -> list[AnnotatedImage]:
    """Reads a folder of JSON files, named without .json; images lie beside them."""
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / f"{name}.json").write_text(text, encoding="utf-8")
    return list(read_labelme(folder, ImageFolder(folder, (".jpg", ".png"))))


def test_polygons_and_rectangles_of_any_two_corners_are_read(tmp_path: Path) -> None:
    rectangle = {**SHAPE, "shape_type": "rectangle", "points": [[4, 6], [1, 2]]}
    oriented = {**SHAPE, "shape_type": "oriented_rectangle"}
    old = {"label": "text", "points": QUAD}
    (image,) = read_files(tmp_path, a=document(SHAPE, rectangle, oriented, old))
    assert points(image) == [QUAD, [[1, 2], [4, 2], [4, 6], [1, 6]], QUAD, QUAD]
    assert [word.key for word in image.words] == ["0", "1", "2", "3"]
    assert (image.filename, image.declared_size, image.source) == ("a.jpg", (48, 64), "a.json")


def test_labels_and_flags_mark_dont_care_regions(tmp_path: Path) -> None:
    shapes = (
        {**SHAPE, "label": "###"},
        {**SHAPE, "label": "Ignore"},
        {**SHAPE, "flags": {"illegible": True}},
        {**SHAPE, "flags": {"illegible": False, "curved": True}},
    )
    (image,) = read_files(tmp_path, a=document(*shapes))
    assert [word.ignore for word in image.words] == [True, True, True, False]


@pytest.mark.parametrize(
    ("image_path", "found"),
    [
        ("b.jpg", "b.jpg"),
        ("..\\imgs\\b.jpg", "b.jpg"),
        ("../b.jpg", "b.jpg"),
        ("old_name.jpg", "a.png"),
        ("/home/me/b.jpg", "b.jpg"),
    ],
)
def test_the_image_is_found_by_its_path_or_by_the_name_of_the_file(image_path: str, found: str, tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    (tmp_path / "b.jpg").touch()
    (image,) = read_files(tmp_path, a=document(imagePath=image_path))
    assert image.filename == found


def test_a_path_without_an_image_stays_for_the_audit_to_report(tmp_path: Path) -> None:
    (image,) = read_files(tmp_path, a=document(imagePath="../../etc/passwd"))
    assert image.filename == "../../etc/passwd"


def test_the_copy_of_the_image_is_passed_over(tmp_path: Path) -> None:
    (image,) = read_files(tmp_path, a=document(SHAPE, imageData="A" * 3_000_000))
    assert len(image.words) == 1


@pytest.mark.parametrize(
    ("shape", "found"),
    [
        (None, "the shape = null"),
        ({**SHAPE, "shape_type": "circle"}, 'a shape of type "circle"'),
        ({**SHAPE, "shape_type": "mask"}, 'a shape of type "mask"'),
        ({**SHAPE, "shape_type": 3}, "a shape of type 3"),
        ({**SHAPE, "shape_type": "rectangle"}, "a rectangle of 4 points"),
        ({**SHAPE, "shape_type": "rectangle", "points": [[1, 1]]}, "points = [[1, 1]]"),
        ({**SHAPE, "points": QUAD[:2]}, "points = [[0, 0], [9, 0]]"),
        ({**SHAPE, "points": [[0, 0], [9, 0], [9, "9"]]}, 'points = [[0, 0], [9, 0], [9, "9"]]'),
        ({**SHAPE, "points": None}, "points = null"),
        ({**SHAPE, "flags": [1]}, "flags = [1]"),
    ],
)
def test_a_malformed_shape_is_a_problem_of_its_word(shape: Any, found: str, tmp_path: Path) -> None:
    images = read_files(tmp_path, a=document(SHAPE, shape))
    assert problems(images) == [("1", found)]
    assert len(images[0].words) == 1


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (document(imagePath=None), "imagePath = null"),
        (document(imageHeight="48"), 'imageHeight = "48"'),
        (document(shapes={"0": SHAPE}), 'shapes = {"0": {"label": '),
        ({"images": [], "annotations": []}, 'keys ["images", "annotations"]'),
        ("[]", "a file that is not JSON: `{` is missing at character 0"),
        ('{"shapes": [', "a file that is not JSON: Expecting value"),
        ('{"shapes": ' + "[" * 100_000, "a file that is not JSON: brackets nested too deep"),
        ('{"shapes": [], "shapes": []}', 'the key "shapes" twice'),
        ('{"imageData": "cut', "a file that is not JSON: a string without an end"),
        ("", "a file that is not JSON: `{` is missing in an empty file"),
    ],
)
def test_a_malformed_file_is_a_problem_of_its_image(content: Any, found: str, tmp_path: Path) -> None:
    bad, good = read_files(tmp_path, a=content, b=document(SHAPE, imagePath="b.jpg"))
    ((word, text),) = problems([bad, good])
    assert word is None
    assert text.startswith(found)
    assert (bad.source, bad.filename, len(good.words)) == ("a.json", "a.jpg", 1)


def test_one_file_is_read_too_and_an_empty_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"found no \.json file; expected a folder of labelme files"):
        read_files(tmp_path)
    (tmp_path / "A.JSON").write_text(json.dumps(document(SHAPE)))
    assert len(list(read_labelme(tmp_path / "A.JSON", ImageFolder(tmp_path, (".jpg",))))) == 1
    assert len(read_files(tmp_path)) == 1


def test_a_folder_is_recognised_although_some_files_are_not_labelme(tmp_path: Path) -> None:
    (tmp_path / "a_classes.json").write_text('["text"]')
    (tmp_path / "b.json").write_text(json.dumps(document(SHAPE, imageData="A" * 100_000)))
    assert examine_labelme(look_at(tmp_path)).confidence == Confidence.CERTAIN
    (tmp_path / "b.json").unlink()
    assert examine_labelme(look_at(tmp_path)).confidence == Confidence.NONE
