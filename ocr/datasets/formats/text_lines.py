"""Splits the lines of annotation text files into numbers and text, whatever separates the fields."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from ocr.datasets.formats.dont_care import IGNORE_TEXTS

ENOUGH = 0.8
"""Share of the lines in the form of a format from which a look is certain; the others are malformed."""
MARK_PADDING = " \t\r\",;'"
"""Characters around the text of a don't-care region that do not belong to it."""

# NaN and infinity count as numbers, so that the audit can name them.
# ASCII: float() refuses some of the blanks that \s matches otherwise. No two neighbouring parts match the same characters, or else
# a line of a million digits would take minutes.
_NUMBER = re.compile(r"\s*[+-]?((\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?|nan|inf(inity)?)\s*", re.IGNORECASE | re.ASCII)
_DECIMAL_COMMA = re.compile(r"(\s*[+-]?\d+),(\d+\s*)", re.ASCII)


class Line(NamedTuple):
    """One line that is not blank."""

    number: int
    """Number in its file, from 1."""
    text: str
    """The line without the blanks around it."""
    fields: list[str]
    num_leading: int
    """Number of leading fields that are numbers: coordinates, and perhaps the beginning of the text."""
    separator: str
    """Character between the fields; a blank stands for any number of blanks."""

    @property
    def numbers(self) -> list[float]:
        """The leading numbers."""
        return [float(field) for field in self.fields[: self.num_leading]]

    def text_from(self, index: int) -> str:
        """Returns the text that begins with a field."""
        return self.separator.join(self.fields[index:])


def split_lines(content: str) -> list[Line]:
    """Returns the lines of a text that are not blank. Lines may end as on Unix, Windows or old Macs."""
    # Not splitlines(), which also splits at U+2028.
    rows = content.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return [split_line(number, row) for number, row in enumerate(rows, 1) if row.strip()]


def split_line(number: int, row: str) -> Line:
    """Returns one line, split at the separator that gives the most leading numbers: commas, tabs, semicolons or blanks."""
    row = row.strip(" \t\r\ufeff")  # joined files have byte-order marks inside
    fields = row.split(",")
    best = Line(number, row, fields, _num_leading(fields), ",")
    if best.num_leading >= 4:
        return best
    for separator in ("\t", ";", " "):
        fields = row.split() if separator == " " else row.split(separator)
        if separator != " ":
            fields = [
                _DECIMAL_COMMA.sub(r"\1.\2", field) if _DECIMAL_COMMA.fullmatch(field) else field for field in fields
            ]
        num_leading = _num_leading(fields)
        if num_leading > best.num_leading:
            best = Line(number, row, fields, num_leading, separator)
    if not best.num_leading and row.startswith(('"', "'")):  # as spreadsheets write fields
        return split_line(number, row.replace(row[0], ""))
    return best


def is_mark(text: str, marks: Sequence[str] = IGNORE_TEXTS) -> bool:
    """Returns whether a text, perhaps in quotes, marks a don't-care region."""
    return text.strip(MARK_PADDING) in marks


def _num_leading(fields: Sequence[str]) -> int:
    for index, field in enumerate(fields):
        is_integer = field.isdecimal() and field.isascii()  # most are; much faster than the pattern
        if not is_integer and _NUMBER.fullmatch(field) is None:
            return index
    return len(fields)
