"""Each text format reads the same words as the Upstage form of the same set, and is found by looking."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ocr.datasets.formats.look import look_at
from ocr.datasets.formats.read import find_format
from tests.ocr.datasets.formats.example_set import (
    CURVES,
    QUADS,
    RECTANGLES,
    SIZE,
    Word,
    assert_same,
    flat,
    read,
    write_images,
)

Words = dict[str, list[Word]]
Writer = Callable[[Path, Words], Path]


def per_image(
    name: Callable[[str], str], line: Callable[[list[list[float]], str], str], encoding: str = "utf-8"
) -> Writer:
    """Returns a function that writes one text file per image, and returns their folder."""

    def write(root: Path, words: Words) -> Path:
        (root / "gt").mkdir()
        for filename, listed in words.items():
            content = "".join(line(points, text) + "\n" for points, text in listed)
            (root / "gt" / name(filename)).write_bytes(content.encode(encoding))
        return root / "gt"

    return write


def gt(filename: str) -> str:
    return f"gt_{Path(filename).stem}.txt"


def stem(filename: str) -> str:
    return f"{Path(filename).stem}.txt"


def quad(points: list[list[float]], text: str) -> str:
    return f"{flat(points)},{text}"


def totaltext(points: list[list[float]], text: str) -> str:
    xs, ys = (" ".join(f"{point[axis]:g}" for point in points) for axis in (0, 1))
    mark = "#" if text == "###" else text
    return f"x: [[{xs}]], y: [[{ys}]], ornt: [u'{'#' if mark == '#' else 'c'}'], transcriptions: [u'{mark}']"


def offsets(points: list[list[float]], text: str) -> str:
    left, top = min(x for x, _ in points), min(y for _, y in points)
    right, bottom = max(x for x, _ in points), max(y for _, y in points)
    return f"{left:g},{top:g},{right:g},{bottom:g},{flat([[x - left, y - top] for x, y in points])}"


def shares(points: list[list[float]], text: str) -> str:
    height, width = SIZE
    return "0 " + " ".join(f"{x / width:.9f} {y / height:.9f}" for x, y in points)


def share_boxes(points: list[list[float]], text: str) -> str:
    height, width = SIZE
    (left, top), (right, bottom) = points[0], points[2]
    box = [(left + right) / 2 / width, (top + bottom) / 2 / height, (right - left) / width, (bottom - top) / height]
    return "1 " + " ".join(f"{value:.9f}" for value in box)


def paddle(root: Path, words: Words) -> Path:
    rows = [
        f"photos/{name}\t" + json.dumps([{"transcription": text, "points": points} for points, text in listed])
        for name, listed in words.items()
    ]
    (root / "Label.txt").write_text("\n".join(rows))
    return root / "Label.txt"


def without_marks(words: Words) -> Words:
    return {name: [(points, "text") for points, _ in listed] for name, listed in words.items()}


@pytest.mark.parametrize(
    ("expected", "words", "write"),
    [
        ("icdar", QUADS, per_image(gt, quad)),
        ("icdar", QUADS, per_image(gt, quad, "utf-8-sig")),
        ("icdar", QUADS, per_image(gt, lambda points, text: f'{flat(points)},"{text}"\r', "utf-16")),
        ("icdar", RECTANGLES, per_image(gt, lambda points, text: f'{flat([points[0], points[2]], " ")} "{text}"')),
        (
            "mlt",
            QUADS,
            per_image(gt, lambda points, text: f"{flat(points)},{'None' if text == '###' else 'Latin'},{text}"),
        ),
        ("sroie", QUADS, per_image(stem, quad)),
        ("db", QUADS, per_image(lambda name: f"{name}.txt", quad)),
        ("db", CURVES, per_image(lambda name: f"{name}.txt", quad)),
        ("totaltext", CURVES, per_image(lambda name: f"poly_gt_{stem(name)}", totaltext)),
        ("ctw1500", without_marks(CURVES), per_image(stem, offsets)),
        ("ctw1500", CURVES, per_image(stem, lambda points, text: f"{flat(points)},####{text}")),
        ("paddleocr", QUADS, paddle),
        ("yolo", without_marks(QUADS), per_image(stem, shares)),
        ("yolo", without_marks(RECTANGLES), per_image(stem, share_boxes)),
    ],
)
def test_the_words_are_those_of_the_upstage_form(expected: str, words: Words, write: Writer, tmp_path: Path) -> None:
    images = write_images(tmp_path / "img")
    path = write(tmp_path, words)
    found, _ = find_format(look_at(path))
    assert found.name == expected
    atol = 1e-5 if expected == "yolo" else 0
    assert_same(read(path, images), words, tmp_path, atol)
    assert_same(read(path, images, expected), words, tmp_path, atol)
