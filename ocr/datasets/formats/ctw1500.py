"""Reads SCUT-CTW1500 text files: one `<image>.txt` per image, one curved line of text per line of the file.

    xmin,ymin,xmax,ymax,dx1,dy1,...,dx14,dy14    32 numbers: a rectangle, and 14 points as offsets from its top left corner
    x1,y1,...,x14,y14,####text                   points in pixels; later releases, with the text after four number signs

`###` as text, `#######` with the signs before it, marks a don't-care region.

Sources: data/README.md of Yuliang-Liu/Curve-Text-Detector (offsets); `ctw1500_parser.py` of open-mmlab/mmocr (points and text).
The XML of the training set is another format.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ocr.datasets.formats.annotated import AnnotatedImage, AnnotatedWord, FormatProblem
from ocr.datasets.formats.image_folder import ImageFolder
from ocr.datasets.formats.interface import NO_FIT, AnnotationFormat, Confidence, Fit
from ocr.datasets.formats.look import Look
from ocr.datasets.formats.text_folder import lines_in, lines_of, text_files, with_images
from ocr.datasets.formats.text_lines import ENOUGH, Line, is_mark

NUM_WITH_OFFSETS = 32
_TEXT_SIGN = "####"
_SLACK = 2.0
"""Pixels that a point may lie outside its rectangle."""


def examine_ctw1500(look: Look) -> Fit:
    """Judges by 32 numbers that are a rectangle and offsets inside it, or by texts after `####`."""
    lines = lines_in(look.files(".txt"))
    num_with_offsets = sum(map(_has_offsets, lines))
    num_with_text = sum(line.num_leading >= 6 and _text_of(line).startswith(_TEXT_SIGN) for line in lines)
    if not lines or num_with_offsets + num_with_text < ENOUGH * len(lines):
        return NO_FIT
    form = "a rectangle and 14 offsets" if num_with_offsets else "points and a text after ####"
    return Fit(Confidence.CERTAIN, f"{form} in each line")


def read_ctw1500(annotation_dir: Path, images: ImageFolder) -> Iterator[AnnotatedImage]:
    """Yields the images that have a text file, sorted by its name.

    Raises:
        FileNotFoundError: the folder is missing or holds no .txt file.
        InputError: two text files belong to the same image.
    """
    for path, filename, problems in with_images(text_files(annotation_dir), images):
        words = map(_read_word, lines_of(path))
        yield AnnotatedImage.of(filename, path.name, [*problems, *words], keys_are_lines=True)


CTW1500 = AnnotationFormat("ctw1500", "CTW1500 text files", "folder", examine_ctw1500, read_ctw1500)


def _has_offsets(line: Line) -> bool:
    if line.num_leading != NUM_WITH_OFFSETS:
        return False
    values = np.array(line.numbers)
    width, height = values[2:4] - values[:2]
    offsets = values[4:].reshape(-1, 2)
    return bool((offsets >= -_SLACK).all() and (offsets <= (width + _SLACK, height + _SLACK)).all())


def _text_of(line: Line) -> str:
    return line.text_from(line.num_leading).strip()


def _read_word(line: Line) -> AnnotatedWord | FormatProblem:
    text = _text_of(line)
    ignore = is_mark(text.removeprefix(_TEXT_SIGN)) or is_mark(text)
    if line.num_leading == NUM_WITH_OFFSETS and not text.startswith(_TEXT_SIGN):
        values = np.array(line.numbers)
        if not _has_offsets(line):
            return FormatProblem(
                str(line.number),
                f"32 numbers whose offsets leave the rectangle {','.join(line.fields[:4])}",
                "a rectangle and 14 offsets from its top left corner",
            )
        return AnnotatedWord(str(line.number), values[4:].reshape(-1, 2) + values[:2], ignore)
    if line.num_leading < 6 or line.num_leading % 2:
        found = f"{line.num_leading} numbers at the start of {line.text[:60]!r}"
        return FormatProblem(str(line.number), found, "32 (a rectangle and 14 offsets), or points and ####text")
    return AnnotatedWord(str(line.number), np.array(line.numbers).reshape(-1, 2), ignore)
