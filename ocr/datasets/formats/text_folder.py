"""A folder with one text file per image: which files there are, and which image each belongs to.

gt_img_1.txt      img_1.jpg    ICDAR 2013, 2015, MLT
img_1.txt         img_1.jpg    SROIE, CTW1500, YOLO
img_1.jpg.txt     img_1.jpg    MhLiao/DB
poly_gt_img1.txt  img1.jpg     Total-Text
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

from ocr.datasets.folder_listing import files_with
from ocr.datasets.formats.annotated import FormatProblem
from ocr.datasets.formats.image_folder import ImageFolder
from ocr.datasets.formats.look import Look
from ocr.datasets.formats.text import read_text
from ocr.datasets.formats.text_lines import Line, split_lines
from ocr.errors import InputError
from ocr.file_names import shown

PREFIXES = ("", "gt_", "poly_gt_")
"""Beginnings of a text file's name that are not part of the image's name."""
MAX_LINES = 20_000
"""Most lines of one image's text file. The lines of such a file take a second at most."""
_NUM_SAMPLED = 1000
"""Number of files that show the layout of all."""


def text_files(folder: Path, without: Collection[str] = ()) -> list[Path]:
    """Returns the .txt files of a folder, sorted; the extension may be in upper case.

    Args:
        folder: searched without its sub-folders.
        without: names in lower case of files that hold something else.

    Raises:
        FileNotFoundError: the folder is missing or holds no .txt file.
    """
    paths = [file for file in files_with(folder, ".txt") if file.name.lower() not in without]
    if not paths:
        raise FileNotFoundError(f"{folder}: found no .txt file; expected a folder with one text file per image")
    return paths


def lines_of(path: Path) -> list[Line]:
    """Returns the lines of one image's text file that are not blank.

    Raises:
        InputError: there are more than `MAX_LINES`.
    """
    text = read_text(path)
    num_lines = text.count("\n") + text.count("\r")
    if num_lines > 2 * MAX_LINES or (num_lines > MAX_LINES and len(text.splitlines()) > MAX_LINES):
        raise InputError(
            f"{shown(str(path))}: found {num_lines:,} lines; expected at most {MAX_LINES:,}, one for each text of an image; remove "
            "the file, or correct it"
        )
    return split_lines(text)


def lines_in(files: Iterable[Look]) -> list[Line]:
    """Returns the first lines of text files that were looked at."""
    return [line for file in files for line in split_lines("\n".join(file.first_lines))]


def sampled_lines(paths: Sequence[Path]) -> Iterator[Line]:
    """Yields the lines of at most 1000 files, spread evenly over all."""
    step = max(-(-len(paths) // _NUM_SAMPLED), 1)
    for path in paths[::step]:
        yield from lines_of(path)


def with_images(paths: Sequence[Path], images: ImageFolder) -> Iterator[tuple[Path, str, list[FormatProblem]]]:
    """Yields each text file with the file name of its image, and a problem if two images fit.

    Raises:
        InputError: two text files belong to the same image.
    """
    text_file_of: dict[str, str] = {}
    for path in paths:
        filename, problems = images.belonging_to(path.stem, PREFIXES)
        if filename in text_file_of:
            both = shown(f"{text_file_of[filename]} and {path.name}")
            raise InputError(
                f"{path.parent}: {both} belong to the same image; expected one text file, remove the other"
            )
        text_file_of[filename] = path.name
        yield path, filename, problems
