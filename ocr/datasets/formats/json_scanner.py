"""Compiled scanner of Upstage JSON: from UTF-8 bytes to arrays, without a Python object per word.

It reads what writers of this format write, and stops at anything else: a repeated key, an escape in a key, a point of three
numbers, broken JSON. The caller then gives the bytes of that image to Python's own parser, which reads or names everything. The
scanner must therefore never accept what Python's parser refuses, but it may stop at what that parser accepts.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import types

from dali_pipelines.compiled import compiled
from ocr.datasets.formats.annotated import AnnotatedImage

Bytes = npt.NDArray[np.uint8]
Spans = npt.NDArray[np.int64]
"""(n, 2): first byte and end of each string."""

ENDED, FULL, ODD, CUT = 0, 1, 2, 3
"""Ends of a scan: at the closing brace; at the limit of images; at an entry for Python's parser; at the end of the bytes."""

_MAX_DEPTH = 32
"""Deepest nesting inside a value that the scanner passes over."""
_MAX_MEMBERS = 24
"""Largest number of members of an image or word; their keys are compared with each other."""
_MAX_EXACT_POWER = 22
"""10 to this power is exact in float64, so that one division or multiplication by it is rounded once."""
_POWERS = 10.0 ** np.arange(_MAX_EXACT_POWER + 1)
_QUOTE, _BACKSLASH, _COMMA, _COLON, _MINUS, _PLUS, _POINT = (ord(char) for char in '"\\,:-+.')
_OPEN, _CLOSE, _OPEN_LIST, _CLOSE_LIST = (ord(char) for char in "{}[]")
_ZERO, _NINE = ord("0"), ord("9")
_ESCAPED = tuple(b'"\\/bfnrt')

# From the C library; correctly rounded, as Python's float() is.
_strtod = types.ExternalFunction("strtod", types.float64(types.uintp, types.uintp))


class Columns(NamedTuple):
    """Room for the images of one chunk."""

    names: npt.NDArray[np.int64]
    """(N, 2): first byte and end of each file name, without its quotes."""
    word_starts: npt.NDArray[np.int64]
    keys: npt.NDArray[np.int64]
    """(W, 2): first byte and end of each word's key."""
    point_starts: npt.NDArray[np.int64]
    ignore: npt.NDArray[np.bool_]
    points: npt.NDArray[np.float64]
    declared_sizes: npt.NDArray[np.float64]
    is_declared: npt.NDArray[np.bool_]
    counts: npt.NDArray[np.int64]
    """(3,): number of images, words and points so far."""


def columns_for(num_bytes: int, max_images: int) -> Columns:
    """Returns room for all images in this many bytes of JSON. The operating system provides only the pages that are used."""
    num_words, num_points = num_bytes // 8 + 1, num_bytes // 5 + 1  # `"":[],` and `[0,0]` are shorter than any of them
    return Columns(
        names=np.empty((max_images, 2), np.int64),
        word_starts=np.zeros(max_images + 1, np.int64),
        keys=np.empty((num_words, 2), np.int64),
        point_starts=np.zeros(num_words + 1, np.int64),
        ignore=np.empty(num_words, np.bool_),
        points=np.empty((num_points, 2), np.float64),
        declared_sizes=np.zeros((max_images, 2), np.float64),
        is_declared=np.zeros((max_images, 2), np.bool_),
        counts=np.zeros(3, np.int64),
    )


def append_image(columns: Columns, image: AnnotatedImage) -> None:
    """Appends an image that Python's parser has read from the same bytes. Its name and keys are not in the columns."""
    index, num_words, num_points = (int(count) for count in columns.counts)
    for word in image.words:
        columns.points[num_points : num_points + len(word.points)] = word.points
        num_points += len(word.points)
        columns.ignore[num_words] = word.ignore
        columns.keys[num_words] = 0
        num_words += 1
        columns.point_starts[num_words] = num_points
    columns.names[index] = 0
    for axis, size in enumerate(image.declared_size):
        columns.is_declared[index, axis] = size is not None
        columns.declared_sizes[index, axis] = size or 0
    columns.word_starts[index + 1] = num_words
    columns.counts[:] = index + 1, num_words, num_points


@compiled
def _at(text: Bytes, position: int) -> np.uint8:
    """Returns one byte; 0, which is never valid, behind the end."""
    return text[position] if position < len(text) else np.uint8(0)


@compiled
def blanks_end(text: Bytes, position: int) -> int:
    """Returns the position of the first byte that is no JSON whitespace."""
    while position < len(text):
        byte = text[position]
        if byte != 32 and byte != 10 and byte != 13 and byte != 9:
            break
        position += 1
    return position


@compiled
def _string_end(text: Bytes, position: int) -> tuple[int, bool]:
    """Returns (position after the closing quote, whether there is an escape) of a string; -1 if it is not sound."""
    if _at(text, position) != _QUOTE:
        return -1, False
    position += 1
    is_escaped = False
    while position < len(text):
        byte = text[position]
        if byte == _QUOTE:
            return position + 1, is_escaped
        if byte < 32:
            return -1, False
        if byte == _BACKSLASH:
            is_escaped = True
            position += 1
            byte = _at(text, position)
            if byte == ord("u"):
                for _ in range(4):
                    position += 1
                    digit = _at(text, position)
                    is_hexadecimal = (
                        _ZERO <= digit <= _NINE or ord("a") <= digit <= ord("f") or ord("A") <= digit <= ord("F")
                    )
                    if not is_hexadecimal:
                        return -1, False
            elif not (
                byte in (_QUOTE, _BACKSLASH)
                or byte == ord("/")
                or byte == ord("b")
                or byte == ord("f")
                or byte == ord("n")
                or byte == ord("r")
                or byte == ord("t")
            ):
                return -1, False
        position += 1
    return -1, False


@compiled
def _number(text: Bytes, position: int) -> tuple[int, float]:
    """Returns (position after a number, its float64); position -1 if it is no JSON number, or an integer of over 18 digits."""
    first = position
    is_negative = _at(text, position) == _MINUS
    if is_negative:
        position += 1
    digits, num_digits, exponent = np.int64(0), 0, 0
    if not _ZERO <= _at(text, position) <= _NINE:
        return -1, 0.0
    has_leading_zero = _at(text, position) == _ZERO
    before = position
    while _ZERO <= _at(text, position) <= _NINE:
        if digits > 0 or text[position] != _ZERO:
            num_digits += 1
        if num_digits <= 18:
            digits = digits * 10 + np.int64(text[position]) - _ZERO
        position += 1
    if has_leading_zero and position - before > 1:
        return -1, 0.0
    is_integer = True
    if _at(text, position) == _POINT:
        is_integer = False
        position += 1
        before = position
        while _ZERO <= _at(text, position) <= _NINE:
            if digits > 0 or text[position] != _ZERO:
                num_digits += 1
            if num_digits <= 18:
                digits = digits * 10 + np.int64(text[position]) - _ZERO
                exponent -= 1
            position += 1
        if position == before:
            return -1, 0.0
    if _at(text, position) == ord("e") or _at(text, position) == ord("E"):
        is_integer = False
        position += 1
        sign = 1
        if _at(text, position) == _MINUS or _at(text, position) == _PLUS:
            sign = -1 if text[position] == _MINUS else 1
            position += 1
        before, power = position, 0
        while _ZERO <= _at(text, position) <= _NINE:
            if power < 100_000:
                power = power * 10 + int(text[position]) - _ZERO
            position += 1
        if position == before:
            return -1, 0.0
        exponent += sign * power
    if position >= len(text):
        return -1, 0.0
    if is_integer:
        value = float(digits)
        return (position, -value if is_negative and digits > 0 else value) if num_digits <= 18 else (-1, 0.0)
    if num_digits <= 15 and -_MAX_EXACT_POWER <= exponent <= _MAX_EXACT_POWER:
        value = float(digits)
        value = value / _POWERS[-exponent] if exponent < 0 else value * _POWERS[exponent]
        return position, -value if is_negative else value
    end = np.zeros(1, np.uintp)
    value = _strtod(np.uintp(text.ctypes.data + first), np.uintp(end.ctypes.data))
    if end[0] != np.uintp(text.ctypes.data + position):  # another locale's decimal point
        return -1, 0.0
    return position, value


@compiled
def _is_word(text: Bytes, position: int, word: bytes) -> bool:
    """Returns whether these bytes stand at a position."""
    if position + len(word) > len(text):
        return False
    for offset in range(len(word)):  # noqa: SIM110  compiled
        if text[position + offset] != word[offset]:
            return False
    return True


@compiled
def _literal(text: Bytes, position: int) -> tuple[int, int]:
    """Returns (position after true, false or null, 1, 0 or -1); position -1 if none of them stands there."""
    if _is_word(text, position, b"true"):
        return position + 4, 1
    if _is_word(text, position, b"false"):
        return position + 5, 0
    if _is_word(text, position, b"null"):
        return position + 4, -1
    return -1, 0


@compiled
def value_end(text: Bytes, position: int) -> int:
    """Returns the position after any JSON value; -1 if it is not sound or nested too deep."""
    is_list = np.zeros(_MAX_DEPTH, np.bool_)
    depth = 0
    while True:
        # A value is due.
        byte = _at(text, position)
        is_closed = True
        if byte == _QUOTE:
            position, _ = _string_end(text, position)
        elif byte in (_OPEN, _OPEN_LIST):
            if depth == _MAX_DEPTH:
                return -1
            is_list[depth] = byte == _OPEN_LIST
            depth += 1
            position = blanks_end(text, position + 1)
            if _at(text, position) == (_CLOSE_LIST if is_list[depth - 1] else _CLOSE):
                depth -= 1
                position += 1
            else:
                is_closed = False
        elif byte == _MINUS or _ZERO <= byte <= _NINE:
            position, _ = _number(text, position)
        else:
            position, _ = _literal(text, position)
        if position < 0:
            return -1
        # Behind a value: close what ends here, up to the next comma.
        while is_closed:
            if depth == 0:
                return position
            position = blanks_end(text, position)
            byte = _at(text, position)
            if byte == _COMMA:
                position = blanks_end(text, position + 1)
                break
            if byte != (_CLOSE_LIST if is_list[depth - 1] else _CLOSE):
                return -1
            depth -= 1
            position += 1
        if not is_list[depth - 1]:
            position, _ = _string_end(text, position)
            if position < 0:
                return -1
            position = blanks_end(text, position)
            if _at(text, position) != _COLON:
                return -1
            position = blanks_end(text, position + 1)


@compiled
def _points(text: Bytes, position: int, columns: Columns, num_points: int) -> tuple[int, int]:
    """Reads [[x, y], ...]. Returns (position after it, number of points in the columns); position -1 if it is not that."""
    if _at(text, position) != _OPEN_LIST:
        return -1, num_points
    position = blanks_end(text, position + 1)
    if _at(text, position) == _CLOSE_LIST:
        return position + 1, num_points
    while True:
        if _at(text, position) != _OPEN_LIST:
            return -1, num_points
        position, x = _number(text, blanks_end(text, position + 1))
        if position < 0:
            return -1, num_points
        position = blanks_end(text, position)
        if _at(text, position) != _COMMA:
            return -1, num_points
        position, y = _number(text, blanks_end(text, position + 1))
        if position < 0:
            return -1, num_points
        position = blanks_end(text, position)
        if _at(text, position) != _CLOSE_LIST:
            return -1, num_points
        columns.points[num_points, 0] = x
        columns.points[num_points, 1] = y
        num_points += 1
        position = blanks_end(text, position + 1)
        byte = _at(text, position)
        if byte == _CLOSE_LIST:
            return position + 1, num_points
        if byte != _COMMA:
            return -1, num_points
        position = blanks_end(text, position + 1)


@compiled
def _same_key(text: Bytes, first: int, end: int, other_first: int, other_end: int) -> bool:
    """Returns whether two keys without escapes are the same."""
    if end - first != other_end - other_first:
        return False
    for offset in range(end - first):  # noqa: SIM110  compiled
        if text[first + offset] != text[other_first + offset]:
            return False
    return True


@compiled
def _key(text: Bytes, position: int, seen: Spans, num_seen: int) -> tuple[int, int, int]:
    """Reads a new key and its colon. Returns (position of the value, first byte and end of the key); position -1 if it is odd."""
    first = position + 1
    position, is_escaped = _string_end(text, position)
    if position < 0 or is_escaped or num_seen == len(seen):
        return -1, 0, 0
    end = position - 1
    for other in range(num_seen):
        if _same_key(text, first, end, seen[other, 0], seen[other, 1]):
            return -1, 0, 0
    position = blanks_end(text, position)
    if _at(text, position) != _COLON:
        return -1, 0, 0
    seen[num_seen, 0], seen[num_seen, 1] = first, end
    return blanks_end(text, position + 1), first, end


@compiled
def member_end(text: Bytes, position: int) -> tuple[int, bool]:
    """Returns (position of the next key, False), or (position after the closing brace, True); position -1 if neither comes."""
    position = blanks_end(text, position)
    byte = _at(text, position)
    if byte == _COMMA:
        return blanks_end(text, position + 1), False
    if byte == _CLOSE:
        return position + 1, True
    return -1, False


@compiled
def _word(text: Bytes, position: int, columns: Columns, num_words: int, num_points: int) -> tuple[int, int]:
    """Reads {"points": ..., ...}. Returns (position after it, number of points in the columns); position -1 if it is odd."""
    if _at(text, position) != _OPEN:
        return -1, num_points
    position = blanks_end(text, position + 1)
    seen = np.empty((_MAX_MEMBERS, 2), np.int64)
    num_seen = 0
    has_points = is_ignored = False
    while True:
        position, first, end = _key(text, position, seen, num_seen)
        if position < 0:
            return -1, num_points
        num_seen += 1
        length = end - first
        if length == 6 and _is_word(text, first, b"points"):
            has_points = True
            position, num_points = _points(text, position, columns, num_points)
        elif (length == 6 and _is_word(text, first, b"ignore")) or (
            length == 12 and _is_word(text, first, b"illegibility")
        ):
            position, value = _literal(text, position)
            is_ignored = is_ignored or value == 1
        else:
            position = value_end(text, position)
        if position < 0:
            return -1, num_points
        position, is_last = member_end(text, position)
        if position < 0:
            return -1, num_points
        if is_last:
            columns.ignore[num_words] = is_ignored
            return position if has_points else -1, num_points


@compiled
def _have_repeats(text: Bytes, keys: Spans) -> bool:
    """Returns whether two of the keys, (W, 2) first bytes and ends, are the same."""
    if len(keys) <= 8:
        for i in range(len(keys)):
            for j in range(i):
                if _same_key(text, keys[i, 0], keys[i, 1], keys[j, 0], keys[j, 1]):
                    return True
        return False
    size = 16
    while size < 2 * len(keys):
        size *= 2
    slots = np.full(size, -1, np.int64)
    for i in range(len(keys)):
        code = np.uint64(14695981039346656037)  # FNV-1a
        for offset in range(keys[i, 0], keys[i, 1]):
            code = (code ^ np.uint64(text[offset])) * np.uint64(1099511628211)
        slot = np.int64((code ^ (code >> np.uint64(32))) & np.uint64(size - 1))
        while slots[slot] >= 0:
            j = slots[slot]
            if _same_key(text, keys[i, 0], keys[i, 1], keys[j, 0], keys[j, 1]):
                return True
            slot = (slot + 1) & (size - 1)
        slots[slot] = i
    return False


@compiled
def _words(text: Bytes, position: int, columns: Columns, num_words: int, num_points: int) -> tuple[int, int, int]:
    """Reads an object of words. Returns (position after it, words and points in the columns); position -1 if it is odd."""
    if _is_word(text, position, b"null"):
        return position + 4, num_words, num_points
    if _at(text, position) != _OPEN:
        return -1, num_words, num_points
    position = blanks_end(text, position + 1)
    if _at(text, position) == _CLOSE:
        return position + 1, num_words, num_points
    first_word = num_words
    while True:
        first = position + 1
        position, is_escaped = _string_end(text, position)
        if position < 0 or is_escaped:
            return -1, num_words, num_points
        columns.keys[num_words, 0], columns.keys[num_words, 1] = first, position - 1
        position = blanks_end(text, position)
        if _at(text, position) != _COLON:
            return -1, num_words, num_points
        position, num_points = _word(text, blanks_end(text, position + 1), columns, num_words, num_points)
        if position < 0:
            return -1, num_words, num_points
        num_words += 1
        columns.point_starts[num_words] = num_points
        position, is_last = member_end(text, position)
        if position < 0:
            return -1, num_words, num_points
        if is_last:
            is_odd = _have_repeats(text, columns.keys[first_word:num_words])
            return -1 if is_odd else position, num_words, num_points


@compiled
def _image(text: Bytes, position: int, columns: Columns) -> tuple[int, int, int]:
    """Reads the object of an image into the columns, not counted yet. Returns (position after it, words, points in the columns)."""
    index, num_words, num_points = columns.counts[0], columns.counts[1], columns.counts[2]
    columns.is_declared[index] = False
    if _at(text, position) != _OPEN:
        return -1, num_words, num_points
    position = blanks_end(text, position + 1)
    if _at(text, position) == _CLOSE:
        return position + 1, num_words, num_points
    seen = np.empty((_MAX_MEMBERS, 2), np.int64)
    num_seen = 0
    while True:
        position, first, end = _key(text, position, seen, num_seen)
        if position < 0:
            return -1, num_words, num_points
        num_seen += 1
        length = end - first
        if length == 5 and (_is_word(text, first, b"img_w") or _is_word(text, first, b"img_h")):
            axis = 1 if text[end - 1] == ord("w") else 0
            if _is_word(text, position, b"null"):
                position += 4
            else:
                position, columns.declared_sizes[index, axis] = _number(text, position)
                columns.is_declared[index, axis] = True
        elif length == 5 and _is_word(text, first, b"words"):
            position, num_words, num_points = _words(text, position, columns, num_words, num_points)
        else:
            position = value_end(text, position)
        if position < 0:
            return -1, num_words, num_points
        position, is_last = member_end(text, position)
        if is_last or position < 0:
            return position, num_words, num_points


@compiled
def scan_images(text: Bytes, position: int, columns: Columns) -> tuple[int, int]:
    """Reads members of the object "images" into the columns, from a position at a key on.

    Args:
        text: (B,) uint8.
        position: first byte of a key.
        columns: `Columns`, filled from their counts on.

    Returns:
        (how it ended, position): after the closing brace (ENDED), at a key (FULL, or ODD: the member there is not counted).
    """
    while columns.counts[0] < len(columns.names):
        start = position
        index = columns.counts[0]
        first = position + 1
        position, _ = _string_end(text, position)
        if position < 0:
            return ODD, start
        columns.names[index, 0], columns.names[index, 1] = first, position - 1
        position = blanks_end(text, position)
        if _at(text, position) != _COLON:
            return ODD, start
        position, num_words, num_points = _image(text, blanks_end(text, position + 1), columns)
        if position < 0:
            return ODD, start
        position, is_last = member_end(text, position)
        if position < 0:
            return ODD, start
        columns.counts[0], columns.counts[1], columns.counts[2] = index + 1, num_words, num_points
        columns.word_starts[index + 1] = num_words
        if is_last:
            return ENDED, position
        if position == len(text):
            return CUT, position
    return FULL, position


@compiled
def key_end(text: Bytes, position: int) -> tuple[int, int]:
    """Returns (position after a key, position of its value); -1 for what is not there."""
    end, _ = _string_end(text, position)
    if end < 0:
        return -1, -1
    position = blanks_end(text, end)
    return (end, blanks_end(text, position + 1)) if _at(text, position) == _COLON else (end, -1)


@compiled
def find_member_end(text: Bytes, position: int) -> int:
    """Returns the position of the comma or brace behind a member, from a position at its key on, sound or not; -1: none there."""
    depth = 0
    while position < len(text):
        byte = text[position]
        if byte == _QUOTE:
            position += 1
            while position < len(text) and text[position] != _QUOTE:
                position += 2 if text[position] == _BACKSLASH else 1
        elif byte in (_OPEN, _OPEN_LIST):
            depth += 1
        elif depth == 0 and (byte in (_COMMA, _CLOSE)):
            return position
        elif byte in (_CLOSE, _CLOSE_LIST):
            depth -= 1
        position += 1
    return -1
