"""Arrays in one file that is written once and mapped into memory: all processes of a machine share its pages.

    content of all columns, each from a multiple of 64 bytes on | footer, JSON | length of the footer | its CRC-32 | magic

A file is written whole or not at all. Its checksums tell a damaged one.
"""

import json
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
    """Device, inode and size: another file of the same name has others."""
    values: dict[str, Any]
    """JSON values that were stored with the columns."""
    columns: dict[str, Array]
    """Arrays by name. Changes stay in this process."""


def write_columns(path: Path, values: Mapping[str, Any], columns: Mapping[str, Sequence[Array]]) -> None:
    """Writes arrays and JSON values to a file.

    Args:
        path: file to write; an older one is replaced, and those who have mapped it keep it.
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
                content = memoryview(np.ascontiguousarray(part).reshape(-1).view(np.uint8))
                for first in range(0, len(content), _PIECE):
                    piece = content[first : first + _PIECE]
                    checksum = zlib.crc32(piece, checksum)
                    file.write(piece)
            shape = [sum(len(part) for part in parts), *parts[0].shape[1:]]
            described.append([name, parts[0].dtype.descr, shape, start, checksum])
        footer = json.dumps({"values": values, "columns": described}).encode()
        file.write(footer + _END.pack(len(footer), zlib.crc32(footer), _MAGIC))


def map_columns(path: Path) -> ColumnFile:
    """Returns the mapped content of a file.

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
    try:
        footer, end = _footer(content)
        columns = {name: _column(content, end, *rest) for name, *rest in footer["columns"]}
        return ColumnFile(path, status, footer["values"], columns)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
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


def _footer(content: mmap.mmap) -> tuple[dict[str, Any], int]:
    """Returns the footer and its position."""
    length, checksum, magic = _END.unpack(content[len(content) - _END.size :])
    start = len(content) - _END.size - length
    if magic != _MAGIC or start < 0:
        raise ColumnFileError("another kind of file, or one that is cut short")
    footer = content[start : start + length]
    if zlib.crc32(footer) != checksum:
        raise ColumnFileError("a damaged footer")
    return json.loads(footer), start


def _column(content: mmap.mmap, end: int, described: Any, shape: list[int], start: int, checksum: int) -> Array:
    dtype = np.dtype([tuple([*field[:2], *map(tuple, field[2:])]) for field in described])
    if dtype.names == ("",) or described[0][0] == "":
        dtype = np.dtype(described[0][1])
    count = int(np.prod(shape, dtype=np.int64))
    if dtype.hasobject or min(shape) < 0 or start < 0 or start + count * dtype.itemsize > end:
        raise ColumnFileError("a column outside the file")
    found = 0
    for first in range(start, start + count * dtype.itemsize, _PIECE):
        found = zlib.crc32(memoryview(content)[first : min(first + _PIECE, start + count * dtype.itemsize)], found)
    if found != checksum:
        raise ColumnFileError("damaged content")
    return np.frombuffer(content, dtype, count, start).reshape(shape)
