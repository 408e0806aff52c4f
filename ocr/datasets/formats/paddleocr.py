"""Reads PaddleOCR label files, also those of PPOCRLabel and OpenOCR: one line per image.

    ch4_test_images/img_61.jpg<TAB>[{"transcription": "MASA", "points": [[310, 104], [416, 141], [418, 216], [312, 179]]}, ...]

The text `###` or `*`, or `"difficult": true`, marks a don't-care region. Image paths are relative to the data set's root folder.

Sources: doc/doc_en/detection_en.md of PaddlePaddle/PaddleOCR; `DetLabelEncode` in ppocr/data/imaug/label_ops.py (marks);
PPOCRLabel writes `difficult`.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ocr.datasets.formats.annotated import AnnotatedImage, AnnotatedWord, FormatProblem
from ocr.datasets.formats.dont_care import IGNORE_TEXTS
from ocr.datasets.formats.image_folder import ImageFolder
from ocr.datasets.formats.interface import NO_FIT, AnnotationFormat, Confidence, Fit
from ocr.datasets.formats.look import Look
from ocr.datasets.formats.text import encoding_of
from ocr.errors import InputError

_EXPECTED = "an image path, a tab and a JSON list"


def examine_paddleocr(look: Look) -> Fit:
    """Judges by a first line of an image path, a tab and a JSON list."""
    name, tab, value = look.head.lstrip().partition("\n")[0].partition("\t")
    if tab and re.match(r"\s*\[\s*[{\]]", value) and not name.startswith(("{", "<")):
        return Fit(Confidence.CERTAIN, _EXPECTED + " in each line")
    return NO_FIT


def read_paddleocr(annotation_path: Path, images: ImageFolder) -> Iterator[AnnotatedImage]:
    """Yields one image per line of the file.

    Raises:
        FileNotFoundError: there is no such file.
        InputError: no line has an image path, a tab and a JSON list.
    """
    if not annotation_path.is_file():
        raise FileNotFoundError(f"{annotation_path}: there is no such annotation file")
    with annotation_path.open("rb") as file:
        encoding = encoding_of(file.read(4))
    is_any, num_without_tab = False, 0
    with annotation_path.open(encoding=encoding, errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            name, tab, value = line.strip("\ufeff \r\n").partition("\t")
            if not name and not value:
                continue
            if not tab and not is_any:
                raise InputError(f"{annotation_path}:{number}: found {line[:60].strip()!r}; expected {_EXPECTED}")
            is_any = True
            num_without_tab += not tab
            if num_without_tab > _MOST_WITHOUT_TAB:  # else each would be looked for as an image
                raise InputError(
                    f"{annotation_path}:{number}: found more than {_MOST_WITHOUT_TAB:,} lines without a tab; expected {_EXPECTED} "
                    "in each line"
                )
            source = f"{annotation_path.name}:{number}"
            if tab:
                yield _read_image(images.locate(name), source, value)
            else:
                name = name.partition("[")[0].strip() or name
                yield AnnotatedImage(images.locate(name), source, problems=(FormatProblem(None, "no tab", _EXPECTED),))
    if not is_any:
        raise InputError(f"{annotation_path}: found no line; expected {_EXPECTED} in each line")


_MOST_WITHOUT_TAB = 1000
"""Lines without a tab that are reported one by one; a file with more is something else."""


PADDLEOCR = AnnotationFormat("paddleocr", "PaddleOCR label file", "file", examine_paddleocr, read_paddleocr)


def _read_image(filename: str, source: str, value: str) -> AnnotatedImage:
    try:
        listed = json.loads(value)
    except (ValueError, RecursionError) as error:
        reason = "brackets nested too deep" if isinstance(error, RecursionError) else str(error)
        problem = FormatProblem(None, f"{value[:40]!r}, which is not JSON: {reason}", "a JSON list")
        return AnnotatedImage(filename, source, problems=(problem,))
    if not isinstance(listed, list):
        return AnnotatedImage(filename, source, problems=(FormatProblem(None, value[:60], "a JSON list"),))
    return AnnotatedImage.of(filename, source, [_read_word(str(number), word) for number, word in enumerate(listed, 1)])


def _read_word(key: str, entry: Any) -> AnnotatedWord | FormatProblem:
    if not isinstance(entry, dict):
        return FormatProblem(key, repr(entry)[:60], 'an object with "points" and "transcription"')
    points = entry.get("points")
    try:
        array = np.array(points, np.float64)
    except (ValueError, TypeError, OverflowError):
        array = np.zeros(0)
    if not isinstance(points, list) or array.shape[1:] != (2,) or not _are_numbers(points):
        return FormatProblem(key, f"points = {repr(points)[:60]}", "a list of [x, y] numbers")
    ignore = entry.get("transcription") in IGNORE_TEXTS or entry.get("difficult") is True
    return AnnotatedWord(key, array, ignore)


def _are_numbers(points: list[Any]) -> bool:
    return all(type(value) in (int, float) for point in points for value in point)
