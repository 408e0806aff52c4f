from pathlib import Path
from typing import Any

import pytest

from ocr.datasets.formats.doctr import read_doctr
from ocr.errors import InputError
from tests.ocr.datasets.formats.json_files import points, problems, read_document

QUAD = [[0, 0], [9, 0], [9, 9], [0, 9.5]]


def document(polygons: Any) -> dict[str, Any]:
    return {"a.jpg": {"img_dimensions": [900, 600], "img_hash": "5ac1", "polygons": polygons}}


def test_both_forms_are_read_and_stated_sizes_are_not(tmp_path: Path) -> None:
    plain, typed, empty = read_document(
        read_doctr,
        tmp_path,
        {
            **document([QUAD, QUAD[:3]]),
            "b.jpg": {"polygons": {"words": [QUAD], "Don't care": [QUAD], "nothing": None}},
            "c.jpg": {"img_dimensions": "?", "polygons": []},
        },
    )
    assert points(plain) == [QUAD, QUAD[:3]]
    assert [word.key for word in plain.words] == ["polygons[0]", "polygons[1]"]
    assert [(word.key, word.ignore) for word in typed.words] == [("words[0]", False), ("Don't care[0]", True)]
    assert (plain.filename, plain.declared_size, plain.source) == ("a.jpg", (None, None), "annotations.json")
    assert (empty.words, empty.problems) == ((), ())


@pytest.mark.parametrize(
    ("polygon", "found"),
    [
        (None, "the polygon = null"),
        ([0, 0, 9, 9], "the polygon = [0, 0, 9, 9]"),
        ([[0, 0], [9, 9]], "the polygon = [[0, 0], [9, 9]]"),
        ([[0, 0], [9, 0], [9, "9"]], 'the polygon = [[0, 0], [9, 0], [9, "9"]]'),
        ([[0, 0], [9, 0], [9, 9, 1]], "the polygon = [[0, 0], [9, 0], [9, 9, 1]]"),
        ({"x": 1}, 'the polygon = {"x": 1}'),
    ],
)
def test_a_malformed_polygon_is_a_problem_of_its_word(polygon: Any, found: str, tmp_path: Path) -> None:
    images = read_document(read_doctr, tmp_path, document([QUAD, polygon]))
    assert problems(images) == [("polygons[1]", found)]
    assert len(images[0].words) == 1


@pytest.mark.parametrize(
    ("entry", "found"),
    [
        (None, "the image = null"),
        ({"img_dimensions": [900, 600]}, 'keys ["img_dimensions"]'),
        ({"polygons": None}, "polygons = null"),
        ({"polygons": "0,0"}, 'polygons = "0,0"'),
        ({"polygons": {"words": 1}}, 'polygons of "words" = 1'),
    ],
)
def test_a_malformed_image_is_a_problem_of_that_image(entry: Any, found: str, tmp_path: Path) -> None:
    images = read_document(read_doctr, tmp_path, {"a.jpg": entry, **{"b.jpg": {"polygons": []}}})
    assert problems(images) == [(None, found)]


def test_an_image_that_is_listed_twice_comes_twice_for_the_audit_to_report(tmp_path: Path) -> None:
    images = read_document(read_doctr, tmp_path, '{"a.jpg": {"polygons": []}, "a.jpg": {"polygons": []}}')
    assert [image.filename for image in images] == ["a.jpg", "a.jpg"]


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ([], "found a JSON value that begins with '['; expected docTR's labels.json"),
        ({"a.jpg": "text"}, 'found a text for the image "a.jpg", the labels of text recognition'),
        ('{"a.jpg": {"polygons": [[[0, 0', "not JSON: "),
        ('{"a.jpg": {"polygons": ' + "[" * 100_000, "brackets nested too deep"),
        ('{"a.jpg": {"polygons": []}}}', "text after the end of the JSON value"),
    ],
)
def test_a_file_that_cannot_be_read_as_a_whole_is_refused_in_one_line(content: Any, found: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read_document(read_doctr, tmp_path, content)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}/annotations.json: ")
    assert found in message
    assert "\n" not in message
