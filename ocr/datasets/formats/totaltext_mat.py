"""Reads the MATLAB form of Total-Text: one `poly_gt_<image>.mat` or `gt_<image>.mat` for each image.

The variable `polygt` (`gt` in later releases) is a cell array with one row for each word:

    'x:' | [x1 ... xn] | 'y:' | [y1 ... yn] | text | orientation

Source: cs-chan/Total-Text-Dataset, Groundtruth/Text/README.md. The orientation is c (curved), h (horizontal), m (turned) or #
(don't-care); a word with the text # is don't-care too. The rectangles of the same release have other columns and are refused.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ocr.datasets.folder_listing import files_with
from ocr.datasets.formats.annotated import AnnotatedImage, AnnotatedWord, FormatProblem
from ocr.datasets.formats.image_folder import ImageFolder
from ocr.datasets.formats.interface import NO_FIT, AnnotationFormat, Confidence, Fit
from ocr.datasets.formats.look import Look
from ocr.datasets.formats.matlab import MatProblem, MatValue, read_mat
from ocr.datasets.formats.text_folder import PREFIXES

_VARIABLES = ("polygt", "gt")
_COLUMNS = 6
_IGNORE_TEXTS = ("#", "###")


def examine_totaltext_mat(look: Look) -> Fit:
    """Judges by the names of the files."""
    names = look.names_with(".mat")
    if not names:
        return NO_FIT
    is_named = any(name.lower().startswith(("poly_gt_", "gt_")) for name in names)
    return Fit(Confidence.CERTAIN if is_named else Confidence.LIKELY, "MAT-files" + " gt_<image>.mat" * is_named)


def read_totaltext_mat(path: Path, images: ImageFolder) -> Iterator[AnnotatedImage]:
    """Yields the images of a folder of .mat files, sorted by the names of these files.

    Args:
        images: folder of the images: the name of a .mat file without `poly_gt_` or `gt_`.

    Raises:
        FileNotFoundError: there is no .mat file.
        OSError: a file cannot be read.
    """
    paths = files_with(path, ".mat")
    if not paths:
        raise FileNotFoundError(f"{path}: found no .mat file; expected a folder of poly_gt_<image>.mat files")
    for file in paths:
        filename, problems = images.belonging_to(file.stem, PREFIXES)
        yield AnnotatedImage.of(filename, file.name, [*problems, *_words_in(file)])


TOTALTEXT_MAT = AnnotationFormat(
    "totaltext_mat", "Total-Text MAT-files", "folder", examine_totaltext_mat, read_totaltext_mat
)


def _words_in(file: Path) -> list[AnnotatedWord | FormatProblem]:
    try:
        rows = _rows_of(read_mat(file.read_bytes()))
    except MatProblem as error:
        return [FormatProblem(None, str(error), "a MAT-file of version 5 to 7 with a cell array polygt or gt")]
    return [_read_word(row, str(number)) for number, row in enumerate(rows, 1)]


def _rows_of(variables: dict[str, MatValue]) -> MatValue:
    """Returns the cell array of the words, (n, 6); raises MatProblem without one."""
    rows = next((variables[name] for name in _VARIABLES if name in variables), None)
    if rows is None:
        raise MatProblem(f"the variables {', '.join(variables) or 'none'}")
    if isinstance(rows, str) or (rows.size and (rows.dtype != object or rows.ndim != 2 or rows.shape[1] != _COLUMNS)):
        shape = "a text" if isinstance(rows, str) else f"an array of {' x '.join(map(str, rows.shape))}"
        raise MatProblem(f"{shape} in place of rows of {_COLUMNS} cells (x:, xs, y:, ys, text, orientation)")
    return rows if rows.size else np.empty((0, _COLUMNS), object)


def _read_word(row: Sequence[MatValue], key: str) -> AnnotatedWord | FormatProblem:
    _, xs, _, ys, text, orientation = row
    are_numbers = all(isinstance(values, np.ndarray) and values.dtype != object for values in (xs, ys))
    if not are_numbers or np.size(xs) != np.size(ys):
        return FormatProblem(key, f"{_shown(xs)} and {_shown(ys)}", "an array of xs and one of as many ys")
    points = np.stack([np.ravel(xs), np.ravel(ys)], axis=1).astype(np.float64)
    marks = [mark.strip() for mark in (text, orientation) if isinstance(mark, str)]  # an empty cell is an array
    return AnnotatedWord(key, points, ignore=any(mark in _IGNORE_TEXTS for mark in marks))


def _shown(value: MatValue) -> str:
    return repr(value[:40]) if isinstance(value, str) else f"{np.size(value)} numbers"
