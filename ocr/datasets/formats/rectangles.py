"""Four numbers that give a rectangle: two corners, a corner and a size, or a centre and a size."""

from collections.abc import Sequence
from enum import Enum
from pathlib import Path

from ocr.datasets.formats.image_folder import ImageFolder
from ocr.datasets.formats.text_folder import PREFIXES, lines_of
from ocr.errors import InputError

_NUM_FILES = 50
"""Number of files, and images, that are looked at."""
_MIN_SHARE = 0.1
"""Share of rectangles with a wrong order of corners from which the numbers are not two corners. Below, single lines are wrong."""
_SLACK = 1.0
"""Pixels that a rectangle may extend beyond its image."""


class Corners(Enum):
    """Meaning of four numbers."""

    LEFT_TOP_RIGHT_BOTTOM = "left,top,right,bottom"
    LEFT_TOP_WIDTH_HEIGHT = "x,y,width,height"
    CENTRE_WIDTH_HEIGHT = "centre x,centre y,width,height"
    RIGHT_BOTTOM_LEFT_TOP = "right,bottom,left,top"
    TOP_LEFT_BOTTOM_RIGHT = "top,left,bottom,right"

    def box(self, numbers: Sequence[float]) -> tuple[float, float, float, float]:
        """Returns (left, top, right, bottom)."""
        a, b, c, d = numbers
        if self is Corners.LEFT_TOP_WIDTH_HEIGHT:
            return a, b, a + c, b + d
        if self is Corners.CENTRE_WIDTH_HEIGHT:
            return a - c / 2, b - d / 2, a + c / 2, b + d / 2
        if self is Corners.RIGHT_BOTTOM_LEFT_TOP:
            return c, d, a, b
        if self is Corners.TOP_LEFT_BOTTOM_RIGHT:
            return b, a, d, c
        return a, b, c, d

    def fits(self, numbers: Sequence[float], size: tuple[int, int] | None) -> bool:
        """Returns whether these numbers give a rectangle, inside an image of this size (H, W) if it is known."""
        left, top, right, bottom = self.box(numbers)
        if right < left or bottom < top:
            return False
        if size is None:
            return True
        height, width = size
        return left >= -_SLACK and top >= -_SLACK and right <= width + _SLACK and bottom <= height + _SLACK


_Rectangle = tuple[str, list[float], tuple[int, int] | None]
"""Place and text, the four numbers, and the image's size (H, W) if it is known."""
FORMAT_OF = {Corners.LEFT_TOP_WIDTH_HEIGHT: "xywh", Corners.CENTRE_WIDTH_HEIGHT: "cxcywh"}
"""The annotation_format that reads rectangles in this form."""


def refuse_other_rectangles(paths: Sequence[Path], images: ImageFolder) -> None:
    """Raises InputError if the rectangles of text files are not given as left, top, right, bottom.

    Width and height taken for a corner give rectangles whose right edge lies left of their left edge, and swapped axes give
    rectangles outside the image. The form that gives rectangles inside the images is named.
    """
    step = max(len(paths) // _NUM_FILES, 1)
    rectangles: list[_Rectangle] = []
    for path in paths[::step][:_NUM_FILES]:
        size = images.size_of(images.belonging_to(path.stem, PREFIXES)[0])
        for line in lines_of(path):
            if line.num_leading >= 4:
                rectangles.append((f"{path.name}:{line.number}: {','.join(line.fields[:4])}", line.numbers[:4], size))
    inverted = [row for row in rectangles if not Corners.LEFT_TOP_RIGHT_BOTTOM.fits(row[1], None)]
    outside = [row for row in rectangles if not Corners.LEFT_TOP_RIGHT_BOTTOM.fits(row[1], row[2])]
    shares = {form: _share_that_fits(form, rectangles) for form in Corners}
    fitting = [form for form, share in shares.items() if share == max(shares.values()) > 1 - _MIN_SHARE]
    least = max(_MIN_SHARE * len(rectangles), 1)
    if len(inverted) >= least:
        wrong, found = inverted, "with right < left or bottom < top"
    elif len(outside) >= least and fitting:
        wrong, found = outside, "outside their image"
    else:
        return
    forms = " or ".join(f"{form.value} ({_advice(form)})" for form in fitting)
    meaning = f"these numbers fit {forms}" if forms else "no other order of these numbers fits either"
    raise InputError(
        f"{paths[0].parent}: found {len(wrong)} of {len(rectangles)} rectangles {found} ({wrong[0][0]}); expected "
        f"left,top,right,bottom; {meaning}"
    )


def _share_that_fits(form: Corners, rectangles: Sequence[_Rectangle]) -> float:
    return sum(form.fits(numbers, size) for _, numbers, size in rectangles) / max(len(rectangles), 1)


def _advice(form: Corners) -> str:
    return f"annotation_format={FORMAT_OF[form]}" if form in FORMAT_OF else "write them as left,top,right,bottom"
