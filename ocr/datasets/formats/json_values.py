"""Parts that JSON formats share: numbers, polygons, rectangles and names, each checked before its use."""

import json
from itertools import chain
from math import cos, radians, sin
from typing import Any

import numpy as np
import numpy.typing as npt

from ocr.datasets.formats.annotated import FormatProblem
from ocr.file_names import shown

Points = npt.NDArray[np.float64]
"""(n, 2): (x, y)."""
Size = tuple[float | None, float | None]
"""(H, W) as an annotation file states it; None where it does not."""
NO_SIZE: Size = (None, None)

_NUMBERS = {int, float}


class Malformed(Exception):
    """A value has the wrong form. The reader that knows its image and word turns this into a `FormatProblem`."""

    def __init__(self, found: str, expected: str) -> None:
        super().__init__(f"found {found}; expected {expected}")
        self.found = found
        self.expected = expected

    def problem(self, word: str | None = None) -> FormatProblem:
        """Returns the problem of a word, or of its image as a whole."""
        return FormatProblem(word, self.found, self.expected)


def brief(value: Any) -> str:
    """Returns a value as JSON, at most 60 characters of it."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (RecursionError, ValueError):  # ValueError: an integer of thousands of digits
        return "a value that is nested too deep or too long"
    return shown(text if len(text) <= 60 else text[:57] + "...")


def as_object(value: Any, name: str) -> dict[str, Any]:
    """Returns the value if it is a JSON object.

    Raises:
        Malformed: it is something else.
    """
    if not isinstance(value, dict):
        raise Malformed(f"{name} = {brief(value)}", "an object")
    return value


def as_list(value: Any, name: str) -> list[Any]:
    """Returns the value if it is a list, and an empty list for null.

    Raises:
        Malformed: it is something else.
    """
    if value is None:
        return []
    if not isinstance(value, list):
        raise Malformed(f"{name} = {brief(value)}", "a list")
    return value


def as_number(value: Any, name: str) -> float:
    """Returns a number, NaN included; true, false, infinity and integers of more than 19 digits are none.

    Raises:
        Malformed: it is something else.
    """
    if type(value) not in _NUMBERS or abs(value) >= 2**63:
        raise Malformed(f"{name} = {brief(value)}", "a number")
    return float(value)


def as_flag(entry: dict[str, Any], name: str) -> bool:
    """Returns a flag of an object: true, false, 1 or 0; a missing one is false.

    Raises:
        Malformed: it is something else.
    """
    value = entry.get(name)
    if value is None or value is True or value is False or value in (0, 1):
        return bool(value)
    raise Malformed(f"{name} = {brief(value)}", "true or false")


def as_name(value: Any, name: str) -> str:
    """Returns a text that is not empty, such as a file name.

    Raises:
        Malformed: it is something else.
    """
    if not isinstance(value, str) or not value:
        raise Malformed(f"{name} = {brief(value)}", "a file name")
    return value


def as_id(value: Any, name: str) -> str:
    """Returns an identifier as text. It is a text or a whole number in the file; 7, "7" and 7.0 are the same one.

    Raises:
        Malformed: it is something else.
    """
    if isinstance(value, str) and value:
        return value
    if type(value) is int and abs(value) < 2**63:
        return str(value)
    if type(value) is float and value.is_integer():
        return str(int(value))
    raise Malformed(f"{name} = {brief(value)}", "a number or text that identifies one entry")


def size_of(entry: dict[str, Any], height: str, width: str) -> Size:
    """Returns the size (H, W) that two members of an object state; None where a member is missing.

    Raises:
        Malformed: a member is not a number.
    """
    stated = (entry.get(height), entry.get(width))
    for name, value in zip((height, width), stated, strict=True):
        if value is not None:
            as_number(value, name)
    return stated


def flat_polygon(value: Any, name: str) -> Points:
    """Returns the points of a list x1, y1, x2, y2, ...

    Raises:
        Malformed: it is something else, or has fewer than 3 points.
    """
    is_flat = type(value) is list and {*map(type, value)} <= _NUMBERS
    if not is_flat or len(value) < 6 or len(value) % 2:
        count = f" ({len(value)} numbers)" if is_flat else ""
        raise Malformed(f"{name} = {brief(value)}{count}", "a list x1, y1, x2, y2, ... of at least 3 points")
    return _array(value, name)


def nested_polygon(value: Any, name: str, min_points: int = 3) -> Points:
    """Returns the points of a list [[x1, y1], [x2, y2], ...].

    Raises:
        Malformed: it is something else, or has fewer than `min_points` points.
    """
    is_nested = type(value) is list and all(type(point) is list and len(point) == 2 for point in value)
    if not is_nested or {*map(type, chain.from_iterable(value))} - _NUMBERS or len(value) < min_points:
        raise Malformed(f"{name} = {brief(value)}", f"a list of at least {min_points} points [x, y]")
    return _array([*chain.from_iterable(value)], name)


def _array(numbers: list[float], name: str) -> Points:
    try:
        return np.array(numbers, np.float64).reshape(-1, 2)
    except OverflowError as error:
        raise Malformed(f"{name} = {brief(numbers)}", "coordinates in pixels") from error


def corners_rectangle(value: Any, name: str) -> Points:
    """Returns the four points, clockwise from the top left, of a list left, top, right, bottom.

    Raises:
        Malformed: it is something else, or right < left, as in a list x, y, width, height.
    """
    numbers = _four_numbers(value, name, "left, top, right, bottom")
    left, top, right, bottom = numbers
    if right < left or bottom < top:
        raise Malformed(f"{name} = {brief(value)}", "left, top, right, bottom with right >= left and bottom >= top")
    return rectangle(left, top, right - left, bottom - top)


def sides_rectangle(value: Any, name: str) -> Points:
    """Returns the four points, clockwise from the top left, of a list x, y, width, height.

    Raises:
        Malformed: it is something else.
    """
    return rectangle(*_four_numbers(value, name, "x, y, width, height"))


def _four_numbers(value: Any, name: str, expected: str) -> list[float]:
    if type(value) is not list or len(value) != 4:
        raise Malformed(f"{name} = {brief(value)}", f"a list {expected}")
    return [as_number(number, name) for number in value]


def rectangle(left: float, top: float, width: float, height: float, degrees: float = 0.0) -> Points:
    """Returns the corners (4, 2) of a rectangle: clockwise, from the one that is top left before the rotation.

    Args:
        left, top: the corner that the rectangle is rotated about, in pixels.
        width, height: sides in pixels.
        degrees: rotation, clockwise as seen on the image.
    """
    across = np.array([width, 0.0])
    down = np.array([0.0, height])
    if degrees % 360:
        turn = radians(degrees)
        across = width * np.array([cos(turn), sin(turn)])
        down = height * np.array([-sin(turn), cos(turn)])
    corner = np.array([left, top])
    return np.stack([corner, corner + across, corner + across + down, corner + down])
