"""Reads ICDAR text files: one `gt_<image>.txt` or `<image>.txt` per image, one word per line, coordinates first, then the text.

    quad       x1,y1,x2,y2,x3,y3,x4,y4,text     ICDAR 2015, SROIE
    rectangle  x1,y1,x2,y2,text                 ICDAR 2013; blanks instead of commas are read too
    polygon    x1,y1,...,xn,yn[,text]           curved text; n differs from line to line

The text `###` or `*` marks a don't-care region. A text may hold numbers and commas itself (`1,234.00`), so that one line does
not show where its text begins. The layout is therefore taken from all lines of the folder, and a line that can still be read in
two ways is reported, not guessed. A text in double quotes is never ambiguous.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Literal, NamedTuple

import numpy as np

from ocr.datasets.formats.annotated import AnnotatedImage, AnnotatedWord, FormatProblem
from ocr.datasets.formats.image_folder import ImageFolder
from ocr.datasets.formats.interface import NO_FIT, AnnotationFormat, Confidence, Fit
from ocr.datasets.formats.look import Look
from ocr.errors import InputError
from ocr.file_names import shown

Layout = Literal["rectangle", "quad", "polygon"]

IGNORE_TEXTS = ("###", "*")

# NaN and infinity count as numbers, so that the audit can name them.
# ASCII: float() refuses some of the blanks that \s matches otherwise. No two neighbouring parts match the same characters, or else
# a line of a million digits would take minutes.
_NUMBER = re.compile(r"\s*[+-]?((\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?|nan|inf(inity)?)\s*", re.IGNORECASE | re.ASCII)


def examine_icdar(look: Look) -> Fit:
    """Judges by text files whose lines begin with numbers."""
    lines = [line for file in look.files(".txt") for line in file.first_lines]
    if not look.names_with(".txt"):
        return NO_FIT
    num_words = sum(_split(0, line).num_leading >= 4 for line in lines)
    if num_words < len(lines) / 2:
        return NO_FIT
    return Fit(Confidence.LIKELY, "text files whose lines begin with coordinates")


def read_icdar(annotation_dir: Path, images: ImageFolder) -> Iterator[AnnotatedImage]:
    """Yields the images that have a text file, sorted by its name; a file without lines is an image without text.

    Args:
        annotation_dir: folder of the .txt files.
        images: folder searched for the image of each text file: same stem, any of the extensions.

    Raises:
        FileNotFoundError: the folder is missing or holds no .txt file.
        InputError: two text files belong to the same image.
    """
    paths = sorted(annotation_dir.glob("*.txt")) if annotation_dir.is_dir() else []
    if not paths:
        raise FileNotFoundError(f"{annotation_dir}: found no .txt file; expected a folder of gt_<image>.txt files")
    lines = {path: _read_lines(path) for path in paths}
    layout = _layout_of([line.num_leading for file_lines in lines.values() for line in file_lines])

    text_file_of: dict[str, Path] = {}
    for path in paths:
        stem = path.stem if images.with_stem(path.stem) else path.stem.removeprefix("gt_")
        if stem in text_file_of:
            both = shown(f"{text_file_of[stem].name} and {path.name}")
            raise InputError(
                f"{annotation_dir}: {both} belong to the same image; expected one text file, remove the other"
            )
        text_file_of[stem] = path
        filenames = images.with_stem(stem) or (stem + images.extensions[0],)
        yield _read_image(path.name, filenames, lines[path], layout)


ICDAR = AnnotationFormat("icdar", "ICDAR text files", "folder", examine_icdar, read_icdar)


class _Line(NamedTuple):
    number: int
    fields: list[str]
    num_leading: int
    """Number of leading fields that are numbers: coordinates, and perhaps the beginning of the text."""


def _read_lines(path: Path) -> list[_Line]:
    # Only digits matter, so another encoding of the text does no harm. Not splitlines(), which also splits at U+2028.
    content = path.read_text(encoding="utf-8-sig", errors="replace")
    return [_split(number, line) for number, line in enumerate(content.split("\n"), 1) if line.strip()]


def _split(number: int, line: str) -> _Line:
    fields = line.split(",")
    if not _NUMBER.fullmatch(fields[0]):
        fields = line.split()
    is_number = [_NUMBER.fullmatch(field) is not None for field in fields]
    return _Line(number, fields, [*is_number, False].index(False))


def _layout_of(counts: list[int]) -> Layout:
    """Returns the layout of most lines. A text that starts with a number adds to the count, so 9 is still a quad."""
    typical = median(counts) if counts else 8
    if typical < 8:
        return "rectangle"
    return "quad" if typical < 10 else "polygon"


def _read_image(source: str, filenames: tuple[str, ...], lines: list[_Line], layout: Layout) -> AnnotatedImage:
    problems = []
    if len(filenames) > 1:
        problems.append(FormatProblem(None, f"images {' and '.join(filenames)}", "one image of that name"))
    words = []
    for line in lines:
        word = _read_word(line, layout)
        if isinstance(word, FormatProblem):
            problems.append(word)
        else:
            words.append(word)
    return AnnotatedImage(filenames[0], source, tuple(words), problems=tuple(problems), keys_are_lines=True)


def _read_word(line: _Line, layout: Layout) -> AnnotatedWord | FormatProblem:
    count = _num_coordinates(line, layout)
    if isinstance(count, FormatProblem):
        return count
    points = np.array([float(field) for field in line.fields[:count]]).reshape(-1, 2)
    if layout == "rectangle":
        (left, top), (right, bottom) = points
        points = np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
    text = ",".join(line.fields[count:]).strip().strip('"')
    return AnnotatedWord(str(line.number), points, ignore=text in IGNORE_TEXTS)


def _num_coordinates(line: _Line, layout: Layout) -> int | FormatProblem:
    num_text_fields = len(line.fields) - line.num_leading
    if layout == "polygon":
        if line.num_leading >= 6:
            return line.num_leading - line.num_leading % 2  # an odd number at the end is a text like 1999
        return _problem(line, "at least 6 (a polygon)")
    count = 4 if layout == "rectangle" else 8
    if line.num_leading < count:
        return _problem(line, f"{count} (a {layout})")
    # One extra number is the beginning of the text; two at the end of the line are a text like 1,234.00.
    extra = line.num_leading - count
    if extra <= 1 or (extra == 2 and num_text_fields == 0):
        return count
    return _problem(line, f"{count}, as in most lines; a text that begins with numbers needs double quotes")


def _problem(line: _Line, expected: str) -> FormatProblem:
    found = f"{line.num_leading} numbers at the start of {','.join(line.fields)[:60]!r}"
    return FormatProblem(str(line.number), found, expected)
