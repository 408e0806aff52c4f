"""Reads the `labels.json` of docTR's text detection: one file of images by name.

    {"a.jpg": {"img_dimensions": [900, 600], "img_hash": "...", "polygons": [[[x, y], [x, y], [x, y], [x, y]], ...]},
     "b.jpg": {..., "polygons": {"words": [...], "logo": [...]}}}

The second form has one list of polygons per class. Every class is text, except one named `ignore`, `illegible` or the like, whose
polygons are don't-care regions. docTR itself reads neither `img_dimensions` nor `img_hash`, and files exist that state width
and height in either order, so neither is checked here. The labels of text recognition (`{"a.jpg": "text"}`) are refused by name.

Source: docTR, `references/detection/README.md` and `doctr/datasets/detection.py`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ocr.datasets.formats.annotated import AnnotatedImage, AnnotatedWord
from ocr.datasets.formats.dont_care import is_ignore_label
from ocr.datasets.formats.image_folder import ImageFolder
from ocr.datasets.formats.interface import NO_FIT, AnnotationFormat, Confidence, Fit
from ocr.datasets.formats.json_text import JsonText
from ocr.datasets.formats.json_values import Malformed, as_list, as_object, brief, nested_polygon
from ocr.datasets.formats.look import Look
from ocr.errors import InputError


def read_doctr(path: Path, images: ImageFolder) -> Iterator[AnnotatedImage]:
    """Yields the images in their order, each as soon as it is read.

    Raises:
        FileNotFoundError: there is no such file.
        InputError: the file is not a JSON object, or holds text recognition.
        OSError: the file cannot be read.
    """
    with JsonText(path) as text:
        if text.next_mark() != "{":
            raise InputError(
                f"{path}: found a JSON value that begins with {text.next_mark()!r}; expected docTR's labels.json: "
                '{"<file>": {"polygons": [...]}}'
            )
        for index, filename in enumerate(text.members()):
            entry = text.value()
            if index == 0 and isinstance(entry, str):
                raise InputError(
                    f"{path}: found a text for the image {brief(filename)}, the labels of text recognition; expected "
                    'the labels of text detection: {"<file>": {"polygons": [...]}}'
                )
            yield _read_image(images.locate(filename), path.name, entry)
        text.end()


def _read_image(filename: str, source: str, entry: Any) -> AnnotatedImage:
    words, problems = [], []
    try:
        for label, polygons in _polygons_by_class(entry):
            for number, polygon in enumerate(polygons):
                key = f"{label}[{number}]"
                try:
                    words.append(AnnotatedWord(key, nested_polygon(polygon, "the polygon"), is_ignore_label(label)))
                except Malformed as error:
                    problems.append(error.problem(key))
    except Malformed as error:
        problems.append(error.problem())
    return AnnotatedImage(filename, source, tuple(words), problems=tuple(problems))


def _polygons_by_class(value: Any) -> list[tuple[str, list[Any]]]:
    """Returns (name, polygons) of each class; without classes, all polygons under the name `polygons`."""
    entry = as_object(value, "the image")
    if "polygons" not in entry:
        raise Malformed(f"keys {brief([*entry])}", '"polygons"')
    polygons = entry["polygons"]
    if isinstance(polygons, dict):
        return [(label, as_list(part, f"polygons of {brief(label)}")) for label, part in polygons.items()]
    if not isinstance(polygons, list):
        raise Malformed(f"polygons = {brief(polygons)}", "a list of polygons, or an object of lists by class")
    return [("polygons", polygons)]


def examine_doctr(look: Look) -> Fit:
    """Judges a file by its first image: an object with `polygons` under a file name."""
    document = look.json
    if not isinstance(document, dict) or not document:
        return NO_FIT
    first = next(iter(document.values()))
    if isinstance(first, dict) and isinstance(first.get("polygons"), list | dict):
        return Fit(Confidence.CERTAIN, '"polygons" by file name')
    if isinstance(first, dict) and {"img_dimensions", "img_hash"} & first.keys():
        return Fit(Confidence.LIKELY, '"img_dimensions" by file name')
    return NO_FIT


DOCTR = AnnotationFormat("doctr", "docTR labels.json", "file", examine_doctr, read_doctr)
