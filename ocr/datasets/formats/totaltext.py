"""Reads Total-Text text files: one `poly_gt_<image>.txt` per image, one word per record, a record on one line or more.

    x: [[206 633 251 247]], y: [[633 251 247 634]], ornt: [u'm'], transcriptions: [u'PETROSAINS']

A word whose orientation or text is `#` is a don't-care region, and so is a word without text.

Sources: Groundtruth/Text/README.md of cs-chan/Total-Text-Dataset (orientation c curved, h horizontal, m multi-oriented, # don't
care); `mmocr/datasets/preparers/parsers/totaltext_parser.py` of open-mmlab/mmocr (records over several lines).
"""

import re
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

import numpy as np

from ocr.datasets.formats.annotated import AnnotatedImage, AnnotatedWord, FormatProblem
from ocr.datasets.formats.image_folder import ImageFolder
from ocr.datasets.formats.interface import NO_FIT, AnnotationFormat, Confidence, Fit
from ocr.datasets.formats.look import Look
from ocr.datasets.formats.text import read_text
from ocr.datasets.formats.text_folder import text_files, with_images
from ocr.datasets.formats.text_lines import ENOUGH, is_mark

_IGNORE_TEXTS = ("", "#", "###", "*")
_RECORD = re.compile(r"\s*x\s*:\s*\[\[")
_START = re.compile(r"\s*x\s*:")
_FIELD = re.compile(r"(?:^|\]\s*,)\s*(x|y|ornt|transcriptions)\s*:")
"""Begin of a field: at the begin of a record, or after the brackets and the comma of the field before."""
_QUOTED = re.compile(r"u?(?:'([^']*)'|\"([^\"]*)\")")


def examine_totaltext(look: Look) -> Fit:
    """Judges by text files whose first line begins with `x: [[`."""
    files = [file for file in look.files(".txt") if file.first_lines]
    if files and sum(_RECORD.match(file.head) is not None for file in files) >= ENOUGH * len(files):
        return Fit(Confidence.CERTAIN, "text files of x: [[...]], y: [[...]]")
    return NO_FIT


def read_totaltext(annotation_dir: Path, images: ImageFolder) -> Iterator[AnnotatedImage]:
    """Yields the images that have a text file, sorted by its name.

    Raises:
        FileNotFoundError: the folder is missing or holds no .txt file.
        InputError: two text files belong to the same image.
    """
    for path, filename, problems in with_images(text_files(annotation_dir), images):
        words = (_read_word(number, record) for number, record in _records(read_text(path)))
        yield AnnotatedImage.of(filename, path.name, [*problems, *words], keys_are_lines=True)


TOTALTEXT = AnnotationFormat("totaltext", "Total-Text text files", "folder", examine_totaltext, read_totaltext)


def _records(content: str) -> Iterator[tuple[int, str]]:
    """Yields the number of the first line, and the text, of each record."""
    start, lines = 0, list[str]()
    for number, line in enumerate(content.replace("\r\n", "\n").split("\n"), 1):
        if _START.match(line) and lines:
            yield start, " ".join(lines)
            lines = []
        if line.strip():
            start = start if lines else number
            lines.append(line.strip())
    if lines:
        yield start, " ".join(lines)


def _fields(record: str) -> dict[str, str]:
    """Returns what the brackets of each field of a record hold. Fields that lack a bracket are left out."""
    begins = list(_FIELD.finditer(record))
    fields = {}
    for begin, following in zip_longest(begins, begins[1:]):
        value = record[begin.end() : following.start() + 1 if following else None].strip()
        if value.startswith("[") and value.endswith("]"):
            fields[begin[1]] = value.lstrip("[").rstrip("]")
    return fields


def _read_word(number: int, record: str) -> AnnotatedWord | FormatProblem:
    fields = _fields(record)
    coordinates = []
    for axis in ("x", "y"):
        try:
            coordinates.append([float(value) for value in fields.get(axis, "").replace(",", " ").split()])
        except ValueError:
            return _problem(number, f"{axis}: [[{fields[axis][:40]}]]", "numbers")
    if "x" not in fields or "y" not in fields:
        return _problem(number, repr(record[:60]), "x: [[...]], y: [[...]], ornt: [...], transcriptions: [...]")
    xs, ys = coordinates
    if len(xs) != len(ys):
        return _problem(number, f"{len(xs)} values of x and {len(ys)} of y", "as many of x as of y")
    text = ",".join(single or double for single, double in _QUOTED.findall(fields.get("transcriptions", "")))
    ignore = is_mark(text, _IGNORE_TEXTS) or "#" in fields.get("ornt", "")
    return AnnotatedWord(str(number), np.array([xs, ys]).T, ignore)


def _problem(number: int, found: str, expected: str) -> FormatProblem:
    return FormatProblem(str(number), found, expected)
