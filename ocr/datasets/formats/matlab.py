"""Reads MAT-files of level 5, which MATLAB writes as version 6 and 7: cells, texts and numbers of two dimensions.

Layout by MathWorks, "MAT-File Format" (matfile_format.pdf): a header of 128 bytes, then data elements, each with a tag of type and
size. An array holds its flags, dimensions and name, and then its content; cells hold arrays, column after column.
"""

import struct
import zlib
from math import prod
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

MatValue: TypeAlias = str | npt.NDArray[np.float64] | npt.NDArray[np.object_]
"""A text, numbers as float64, or an array of such values (a cell array)."""

_HEADER_BYTES = 128
_MAX_BYTES = 1 << 26
"""Largest size of a variable after decompression. The annotations of an image take a few kilobytes."""
_MAX_DEPTH = 8
"""Largest number of cell arrays inside each other."""
_MATRIX, _COMPRESSED = 14, 15
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
"""NumPy's name for each type of stored numbers."""
_ENCODINGS = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
"""Encoding of each type of stored text. Type 4 is 16-bit numbers."""
_CELL, _CHAR, _FIRST_NUMERIC, _LAST_NUMERIC = 1, 4, 6, 15
"""Classes of arrays."""

ByteOrder = Literal["<", ">"]


class MatProblem(ValueError):
    """The content is no MAT-file that can be read; the message says what was found."""


def read_mat(content: bytes) -> dict[str, MatValue]:
    """Returns the variables of a MAT-file by name. Variables of other kinds, such as structures, are left out.

    Raises:
        MatProblem: the content is damaged, or a MAT-file of another version.
    """
    order = _byte_order(content)
    variables = {}
    position = _HEADER_BYTES
    while position < len(content):
        kind, data, position = _element(content, position, order)
        if kind == _COMPRESSED:
            kind, data, _ = _element(_decompressed(data), 0, order)
        if kind == _MATRIX:
            name, value = _array(data, order, 0)
            if value is not None:
                variables[name] = value
    return variables


def _byte_order(content: bytes) -> ByteOrder:
    if content.startswith(b"\x89HDF") or content[:_HEADER_BYTES].startswith(b"MATLAB 7.3"):
        raise MatProblem("a MAT-file of version 7.3 (HDF5)")
    mark = content[126:_HEADER_BYTES]
    if mark not in (b"IM", b"MI"):
        raise MatProblem("no MAT-file of version 5, 6 or 7")
    return "<" if mark == b"IM" else ">"


def _element(content: bytes, position: int, order: ByteOrder) -> tuple[int, bytes, int]:
    """Returns type and data of the element at `position`, and the position of the next one."""
    if position + 8 > len(content):
        raise MatProblem("a file that ends too early")
    kind, size = struct.unpack_from(f"{order}II", content, position)
    first = position + 8
    if kind >> 16:  # a small element: size and type share four bytes, the data follow in the next four
        kind, size, first = kind & 0xFFFF, kind >> 16, position + 4
        end = position + 8
    else:
        end = first + size + (0 if kind == _COMPRESSED else -size % 8)
    if first + size > len(content):
        raise MatProblem("a file that ends too early")
    return kind, content[first : first + size], end


def _decompressed(data: bytes) -> bytes:
    decompressor = zlib.decompressobj()
    try:
        plain = decompressor.decompress(data, _MAX_BYTES)
    except zlib.error as error:
        raise MatProblem(f"damaged compressed data ({error})") from error
    if decompressor.unconsumed_tail:
        raise MatProblem(f"a variable of more than {_MAX_BYTES >> 20} MB")
    return plain


def _array(data: bytes, order: ByteOrder, depth: int) -> tuple[str, MatValue | None]:
    """Returns name and value of an array; None: a value of another kind."""
    if not data:  # a cell that was never set
        return "", np.zeros((0, 0))
    _, flags, position = _element(data, 0, order)
    _, dimensions, position = _element(data, position, order)
    _, name, position = _element(data, position, order)
    if len(flags) < 4 or len(dimensions) != 8:
        raise MatProblem("an array that has not two dimensions")
    array_class = struct.unpack_from(f"{order}I", flags)[0] & 0xFF
    shape = struct.unpack(f"{order}2i", dimensions)
    if min(shape) < 0:
        raise MatProblem(f"an array of the dimensions {shape}")
    return name.decode("latin-1"), _value(data, position, order, array_class, shape, depth)


def _value(
    data: bytes, position: int, order: ByteOrder, array_class: int, shape: tuple[int, ...], depth: int
) -> MatValue | None:
    if array_class == _CELL:
        return _cells(data, position, order, shape, depth)
    if array_class == _CHAR:
        kind, text, _ = _element(data, position, order)
        return _text(kind, text, order)
    if _FIRST_NUMERIC <= array_class <= _LAST_NUMERIC:
        kind, numbers, _ = _element(data, position, order)
        return _numbers(kind, numbers, order, shape)
    return None


def _cells(data: bytes, position: int, order: ByteOrder, shape: tuple[int, ...], depth: int) -> MatValue:
    if depth >= _MAX_DEPTH:
        raise MatProblem(f"more than {_MAX_DEPTH} cell arrays inside each other")
    if prod(shape) > len(data) // 8:  # each cell has a tag of 8 bytes
        raise MatProblem("a file that ends too early")
    cells = np.empty(prod(shape), object)
    for index in range(len(cells)):
        kind, cell, position = _element(data, position, order)
        if kind != _MATRIX:
            raise MatProblem(f"a cell of type {kind}")
        cells[index] = _array(cell, order, depth + 1)[1]
    return cells.reshape(shape, order="F")


def _text(kind: int, text: bytes, order: ByteOrder) -> str:
    encoding = _ENCODINGS.get(kind)
    if encoding is None:
        raise MatProblem(f"a text of type {kind}")
    if encoding in ("utf-16", "utf-32"):
        encoding += "-le" if order == "<" else "-be"
    return text.decode(encoding, errors="replace")


def _numbers(kind: int, numbers: bytes, order: ByteOrder, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    name = _NUMBERS.get(kind)
    if name is None:
        raise MatProblem(f"numbers of type {kind}")
    dtype = np.dtype(f"{order}{name}")
    if len(numbers) != prod(shape) * dtype.itemsize:
        raise MatProblem(f"{len(numbers)} bytes for {prod(shape)} numbers of {dtype.itemsize} bytes")
    return np.frombuffer(numbers, dtype).astype(np.float64).reshape(shape, order="F")
