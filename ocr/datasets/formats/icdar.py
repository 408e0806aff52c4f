"""Reads ICDAR text files: one per image, one word per line, coordinates first, then the text.

    quad       x1,y1,x2,y2,x3,y3,x4,y4,text           ICDAR 2015, SROIE, MhLiao/DB
    script     x1,y1,x2,y2,x3,y3,x4,y4,script,text    ICDAR 2017 and 2019 MLT
    rectangle  x1,y1,x2,y2,text                       ICDAR 2013; blanks instead of commas are read too
    polygon    x1,y1,...,xn,yn[,text]                 MhLiao/DB, curved text; n differs from line to line

The text `###` or `*` marks a don't-care region. Tabs and semicolons separate fields as commas do. A text may hold numbers and
commas itself (`1,234.00`), so that one line does not show where its text begins. The layout is therefore taken from the lines of
up to 1000 files of the folder, and a line that can still be read in two ways is reported, not guessed. A text in double quotes is
never ambiguous.

Sources: the task pages of the Robust Reading Competition, rrc.cvc.uab.es, challenges 2 (2013), 4 (2015), 8 and 15 (MLT) and
13 (SROIE); `data/image_dataset.py` of MhLiao/DB, which takes the last field as the text.
"""

import logging
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Literal

import numpy as np

from ocr.datasets.formats.annotated import AnnotatedImage, AnnotatedWord, FormatProblem
from ocr.datasets.formats.image_folder import ImageFolder
from ocr.datasets.formats.interface import NO_FIT, AnnotationFormat, Confidence, Fit
from ocr.datasets.formats.look import Look
from ocr.datasets.formats.rectangles import Corners, refuse_other_rectangles
from ocr.datasets.formats.text import read_text
from ocr.datasets.formats.text_folder import lines_in, lines_of, sampled_lines, text_files, with_images
from ocr.datasets.formats.text_lines import Line, is_mark
from ocr.errors import InputError

Shape = Literal["rectangle", "quad", "polygon"]

_SCRIPTS = {"arabic", "latin", "chinese", "japanese", "korean", "bangla", "hindi", "symbols", "mixed", "none"}
"""Scripts of ICDAR MLT, in lower case."""
_WORD = re.compile(r"[^\W\d_][\w-]{0,19}")
_MIN_LINES = 20
"""Number of lines from which a column of few distinct values counts as a script, whatever its values."""
_IMAGE_AND_TEXT = re.compile(r".+\.(jpe?g|png|bmp|tiff?|webp|gif)\.txt", re.IGNORECASE)

_DB_FOLDER = "_gts"
"""End of the names of MhLiao/DB's folders of text files."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Layout:
    """Properties that all lines of a folder have in common."""

    shape: Shape
    has_script: bool = False
    """Whether a script of ICDAR MLT, or one of few languages, stands before the text."""
    has_word: bool = False
    """Whether a word stands before the text and a comma, which may be a script or language."""
    has_score: bool = False
    """Whether a number from 0 to 1 stands before the text: a score, or the difficulty of RCTW-17."""

    @property
    def num_coordinates(self) -> int | None:
        """Number of coordinates in a line; None: any even number."""
        return {"rectangle": 4, "quad": 8, "polygon": None}[self.shape]


def layout_of(lines: Iterable[Line]) -> Layout:
    """Returns the layout of most lines. A text that starts with a number adds to the count, so 9 is still a quad."""
    counts: list[int] = []
    first_texts: set[str] = set()
    num_with_two_texts = num_with_score = 0
    for line in lines:
        counts.append(line.num_leading)
        texts = line.fields[line.num_leading :]
        if len(texts) > 1:
            num_with_two_texts += 1
            if len(first_texts) < _MIN_LINES:
                first_texts.add(texts[0].strip().lower())
        num_with_score += (
            line.num_leading in (5, 9) and bool(texts) and 0 <= float(line.fields[line.num_leading - 1]) <= 1
        )
    typical = median(counts) if counts else 8
    shape: Shape = "rectangle" if typical < 8 else "quad" if typical < 10 else "polygon"
    has_word = num_with_two_texts >= 0.9 * len(counts) > 0 and all(_WORD.fullmatch(text) for text in first_texts)
    is_script = all(text in _SCRIPTS for text in first_texts)
    is_few = len(first_texts) < _MIN_LINES <= len(counts) and len(first_texts) <= len(counts) / 10
    return Layout(
        shape,
        has_script=has_word and (is_script or is_few),
        has_word=has_word,
        has_score=bool(counts) and num_with_score == len(counts) and typical in (5, 9),
    )


def read_icdar(annotation_dir: Path, images: ImageFolder, corners: Corners | None = None) -> Iterator[AnnotatedImage]:
    """Yields the images that have a text file, sorted by its name; a file without lines is an image without text.

    Args:
        annotation_dir: folder of the .txt files.
        images: folder searched for the image of each text file.
        corners: meaning of the four numbers of a rectangle; None: left, top, right, bottom, refused if they are something else.

    Raises:
        FileNotFoundError: the folder is missing or holds no .txt file.
        InputError: two text files belong to the same image, or rectangles are not given by two corners.
    """
    paths = text_files(annotation_dir)
    layout = layout_of(sampled_lines(paths))
    if layout.shape == "rectangle" and corners is None:
        refuse_other_rectangles(paths, images)
    for path, filename, problems in with_images(paths, images):
        words = (_read_word(line, layout, corners or Corners.LEFT_TOP_RIGHT_BOTTOM) for line in lines_of(path))
        yield AnnotatedImage.of(filename, path.name, [*problems, *words], keys_are_lines=True)


def _read_word(line: Line, layout: Layout, corners: Corners) -> AnnotatedWord | FormatProblem:
    count = _num_coordinates(line, layout)
    if isinstance(count, FormatProblem):
        return count
    numbers = [float(field) for field in line.fields[:count]]
    if layout.shape == "rectangle":
        left, top, right, bottom = corners.box(numbers)
        if right < left or bottom < top:
            found = f"{','.join(line.fields[:4])}: right, bottom = {right:g}, {bottom:g}"
            return FormatProblem(str(line.number), found, "left, top, right, bottom, with the left and top edge first")
        numbers = [left, top, right, top, right, bottom, left, bottom]
    return AnnotatedWord(str(line.number), np.array(numbers).reshape(-1, 2), ignore=_is_ignored(line, count, layout))


def _is_ignored(line: Line, count: int, layout: Layout) -> bool:
    """Returns whether the text of a line, or what follows the script or score before it, is a don't-care mark."""
    if is_mark(line.text_from(count)):
        return True
    texts = line.fields[count:]
    has_column = len(texts) > 1 and (layout.has_word or layout.has_score or texts[0].strip().lower() in _SCRIPTS)
    return has_column and is_mark(line.text_from(count + 1))


def _num_coordinates(line: Line, layout: Layout) -> int | FormatProblem:
    num_text_fields = len(line.fields) - line.num_leading
    count = layout.num_coordinates
    if count is None:
        if line.num_leading >= 6:
            return line.num_leading - line.num_leading % 2  # an odd number at the end is a text like 1999
        return _problem(line, "at least 6 (a polygon)")
    if line.num_leading < count:
        return _problem(line, f"{count} (a {layout.shape})")
    # One extra number is the beginning of the text; two at the end of the line are a text like 1,234.00.
    extra = line.num_leading - count - layout.has_score
    if extra <= 1 or (extra == 2 and num_text_fields == 0):
        return count
    return _problem(line, f"{count}, as in most lines; a text that begins with numbers needs double quotes")


def _problem(line: Line, expected: str) -> FormatProblem:
    found = f"{line.num_leading} numbers at the start of {','.join(line.fields)[:60]!r}"
    return FormatProblem(str(line.number), found, expected)


def db_list_file(annotation_dir: Path) -> Path | None:
    """Returns MhLiao/DB's list of the images of a split, `train_list.txt` beside `train_gts`; None if there is none."""
    if not annotation_dir.name.endswith(_DB_FOLDER):
        return None
    path = annotation_dir.with_name(f"{annotation_dir.name.removesuffix(_DB_FOLDER)}_list.txt")
    return path if path.is_file() else None


def _read_listed(annotation_dir: Path, images: ImageFolder) -> Iterator[AnnotatedImage]:
    """Yields what `read_icdar` does; with MhLiao/DB's list file, only the listed images, as `ImageDataset` there does.

    Raises:
        InputError: the list names no image with a text file.
    """
    listing = db_list_file(annotation_dir)
    if listing is None:
        yield from read_icdar(annotation_dir, images)
        return
    lines = enumerate(read_text(listing).splitlines(), 1)
    listed = {_name_key(line.strip()): (number, line.strip()) for number, line in lines if line.strip()}
    num_listed, num_images = len(listed), 0
    for image in read_icdar(annotation_dir, images):
        num_images += 1
        if listed.pop(_name_key(image.filename), None) is not None:
            yield image
    if len(listed) == num_listed:
        raise InputError(
            f"{listing}: names none of the {num_images} images that {annotation_dir.name} has text files for; expected the file "
            "name of an image in each line; mend the file, or remove it to read all images"
        )
    if num_listed - len(listed) < num_images:
        log.info(
            "%s: %d of %d annotated images are listed, and only these read",
            listing,
            num_listed - len(listed),
            num_images,
        )
    for number, name in listed.values():
        expected = f"{Path(name).name}.txt in {annotation_dir.name}"
        problem = FormatProblem(str(number), "a listed image without text file", expected)
        yield AnnotatedImage(Path(name).name, listing.name, problems=(problem,), keys_are_lines=True)


def _name_key(name: str) -> str:
    """Returns what the names of one image have in common, whatever their folder, case and Unicode form."""
    return unicodedata.normalize("NFC", name.replace("\\", "/").rpartition("/")[2]).casefold()


Dialect = Literal["icdar", "mlt", "sroie", "db"]


def _dialect_of(look: Look) -> tuple[Dialect, Fit] | None:
    """Returns the dialect that a folder is in; the reader of all is the same. None: other files, or no coordinates."""
    names = look.names_with(".txt")
    lines = lines_in(look.files(".txt"))
    if not names or sum(line.num_leading >= 4 for line in lines) <= len(lines) / 2 < len(lines):
        return None
    if not lines:
        return "icdar", Fit(Confidence.POSSIBLE, "text files without lines")
    layout = layout_of(lines)
    listing = db_list_file(look.path)
    if listing is not None:
        return "db", Fit(Confidence.LIKELY, f"a {layout.shape} in each line, and {listing.name} beside the folder")
    if look.path.name.endswith(_DB_FOLDER) or all(map(_IMAGE_AND_TEXT.fullmatch, names)):
        return "db", Fit(Confidence.LIKELY, f"a {layout.shape} in each line, in files named like {names[0]}")
    if layout.has_script:
        return "mlt", Fit(Confidence.CERTAIN, "coordinates, a script and a text in each line")
    if layout.shape == "quad" and not any(name.lower().startswith("gt_") for name in names):
        return "sroie", Fit(Confidence.LIKELY, "quads in files named like their images")
    return "icdar", Fit(Confidence.LIKELY, f"a {layout.shape} in each line")


def _examine(dialect: Dialect, look: Look) -> Fit:
    found = _dialect_of(look)
    return found[1] if found is not None and found[0] == dialect else NO_FIT


def _examine_rectangles(look: Look) -> Fit:
    lines = lines_in(look.files(".txt"))
    is_rectangle = bool(lines) and layout_of(lines).shape == "rectangle"
    return Fit(Confidence.POSSIBLE, "four numbers in each line") if is_rectangle else NO_FIT


ICDAR = AnnotationFormat("icdar", "ICDAR 2013/2015 text files", "folder", partial(_examine, "icdar"), _read_listed)
MLT = AnnotationFormat("mlt", "ICDAR MLT text files", "folder", partial(_examine, "mlt"), _read_listed)
SROIE = AnnotationFormat("sroie", "SROIE text files", "folder", partial(_examine, "sroie"), _read_listed)
DB = AnnotationFormat("db", "MhLiao/DB text files", "folder", partial(_examine, "db"), _read_listed)
XYWH = AnnotationFormat(
    "xywh",
    "text files of x,y,width,height",
    "folder",
    _examine_rectangles,
    partial(read_icdar, corners=Corners.LEFT_TOP_WIDTH_HEIGHT),
)
CXCYWH = AnnotationFormat(
    "cxcywh",
    "text files of centre x,centre y,width,height",
    "folder",
    _examine_rectangles,
    partial(read_icdar, corners=Corners.CENTRE_WIDTH_HEIGHT),
)
