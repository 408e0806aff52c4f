"""Arrays in one file that is written once and mapped into memory: all processes of a machine share its pages.

    content of all columns, each from a multiple of 64 bytes on | footer, JSON | length of the footer | its CRC-32 | magic

A file is written whole or not at all. Its checksums tell a damaged one.
"""

import json
import math
import mmap
import os
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ocr.atomic_write import atomic_file

_MAGIC = b"dbnetcol"
_END = struct.Struct("<QI8s")
_ALIGNMENT = 64
_PIECE = 8 << 20
"""Bytes that are written or checked at once."""

Array = npt.NDArray[Any]


class ColumnFileError(Exception):
    """A file is no column file, or a damaged one."""


@dataclass(frozen=True)
class ColumnFile:
    """A mapped file."""

    path: Path
    identity: tuple[int, int, int]
    """Device, inode and size, which differ for another file of the same name."""
    values: dict[str, Any]
    """JSON values that were stored with the columns."""
    columns: dict[str, Array]
    """Arrays by name. Changes stay in this process."""

    def column(self, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
        """Returns an array of this type and shape, in which -1 is any length.

        Raises:
            ColumnFileError: there is none.
        """
        array = self.columns.get(name)
        if array is None or array.dtype != dtype or array.ndim != len(shape):
            raise ColumnFileError(f"no array {name} of the type {dtype}")
        if any(length not in (-1, found) for length, found in zip(shape, array.shape, strict=True)):
            raise ColumnFileError(f"the array {name} with the shape {array.shape}")
        return array


def write_columns(path: Path, values: Mapping[str, Any], columns: Mapping[str, Sequence[Array]]) -> None:
    """Writes arrays and JSON values to a file.

    Args:
        path: file to write. It replaces an older one; processes that have mapped that one keep it.
        values: JSON values.
        columns: for each name one or more parts of the same type, which are joined along their first axis.

    Raises:
        OSError: the file cannot be written.
    """
    described = []
    with atomic_file(path) as file:
        for name, parts in columns.items():
            file.write(bytes(-file.tell() % _ALIGNMENT))
            start, checksum = file.tell(), 0
            for part in parts:
                content = np.ascontiguousarray(part).reshape(-1).view(np.uint8).data
                for first in range(0, len(content), _PIECE):
                    piece = content[first : first + _PIECE]
                    checksum = zlib.crc32(piece, checksum)
                    file.write(piece)
            shape = [sum(len(part) for part in parts), *parts[0].shape[1:]]
            described.append([name, parts[0].dtype.descr, shape, start, checksum])
        footer = json.dumps({"values": values, "columns": described}).encode()
        file.write(footer + _END.pack(len(footer), zlib.crc32(footer), _MAGIC))


def map_columns(path: Path, *, check: bool = True) -> ColumnFile:
    """Returns the mapped content of a file.

    Args:
        path: file to map.
        check: compute the checksums, which reads the whole file.

    Raises:
        OSError: the file cannot be read.
        ColumnFileError: it is no column file, or a damaged one.
    """
    with path.open("rb") as file:
        status = _status(file.fileno())
        if status[2] < _END.size:
            raise ColumnFileError("a file that is cut short")
        # Private: readers get writable arrays, for which all compiled functions exist already, but write to no file.
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    return _columns_in(content, path, status, check)


def columns_in(content: bytes) -> ColumnFile:
    """Returns the arrays of a file that was read from elsewhere, in memory of this process.

    Raises:
        ColumnFileError: it is no column file, or a damaged one.
    """
    if len(content) < _END.size:
        raise ColumnFileError("a file that is cut short")
    return _columns_in(bytearray(content), Path(), (0, 0, len(content)), True)  # writable, as a mapped file


def _columns_in(content: mmap.mmap | bytearray, path: Path, status: tuple[int, int, int], check: bool) -> ColumnFile:
    try:
        footer, end = _footer(content)
        columns = {name: _column(content, end, check, *rest) for name, *rest in footer["columns"]}
        return ColumnFile(path, status, footer["values"], columns)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise ColumnFileError(f"an unknown layout: {error}") from error


def identity_of(path: Path) -> tuple[int, int, int] | None:
    """Returns the identity of the file that has this name now, or None."""
    try:
        with path.open("rb") as file:
            return _status(file.fileno())
    except OSError:
        return None


def _status(descriptor: int) -> tuple[int, int, int]:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino, status.st_size


def _footer(content: mmap.mmap | bytearray) -> tuple[dict[str, Any], int]:
    """Returns the footer and its position."""
    length, checksum, magic = _END.unpack(content[len(content) - _END.size :])
    start = len(content) - _END.size - length
    if magic != _MAGIC or start < 0:
        raise ColumnFileError("another kind of file, or one that is cut short")
    footer = content[start : start + length]
    if zlib.crc32(footer) != checksum:
        raise ColumnFileError("a damaged footer")
    return json.loads(footer), start


def _column(
    content: mmap.mmap | bytearray,
    end: int,
    check: bool,
    fields: list[Any],
    shape: list[int],
    start: int,
    checksum: int,
) -> Array:
    # As `dtype.descr` after a round trip through JSON: [["", "<f4"]], or [["size", "<i4", [2]], ...].
    is_plain = len(fields) == 1 and not fields[0][0]
    dtype = np.dtype(fields[0][1] if is_plain else [(field[0], field[1], *map(tuple, field[2:])) for field in fields])
    count = math.prod(shape)
    stop = start + count * dtype.itemsize
    if dtype.hasobject or min(shape) < 0 or start < 0 or stop > end:
        raise ColumnFileError("a column outside the file")
    found = 0
    with memoryview(content) as view:
        for first in range(start, stop if check else start, _PIECE):
            found = zlib.crc32(view[first : min(first + _PIECE, stop)], found)
    if check and found != checksum:
        raise ColumnFileError("damaged content")
    return np.frombuffer(content, dtype, count, start).reshape(shape)
