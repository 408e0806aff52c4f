"""The EXIF orientation of a file, and the matrices between the stored and the upright (original) image.

Orientation 1..8 says how to turn the stored pixels for display (EXIF 2.3, tag 0x0112). Both frames are
continuous: pixel (i, j) covers [i, i+1) x [j, j+1), so a mirrored x is width - x, not width - 1 - x.
"""

import struct
from typing import Any

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]

# Upright (x, y) is this linear part times stored (x, y), shifted so that the image starts at 0.
_UPRIGHT_FROM_STORED_LINEAR = {
    1: ((1, 0), (0, 1)),
    2: ((-1, 0), (0, 1)),  # mirrored left to right
    3: ((-1, 0), (0, -1)),  # half a turn
    4: ((1, 0), (0, -1)),  # mirrored top to bottom
    5: ((0, 1), (1, 0)),  # transposed
    6: ((0, -1), (1, 0)),  # needs a quarter turn clockwise
    7: ((0, -1), (-1, 0)),  # transposed along the other diagonal
    8: ((0, 1), (-1, 0)),  # needs a quarter turn counter-clockwise
}

_LINEAR_PARTS = np.array([np.zeros((2, 2)), *_UPRIGHT_FROM_STORED_LINEAR.values()])
"""(9, 2, 2) by orientation; 0 is none."""

_ORIENTATION_TAG = 0x0112
_SHORT = 3


def original_from_stored(orientation: int, stored_size: tuple[int, int]) -> Matrix:
    """Returns the matrix from points in the stored file to points in the upright image.

    Args:
        orientation: EXIF orientation, 1..8.
        stored_size: (H, W) of the stored file, pixels.

    Returns:
        (3, 3) float64; maps (x, y, 1) in stored pixels to (x, y, 1) in original (upright) pixels.

    Raises:
        ValueError: the orientation is not in 1..8.
    """
    linear = np.array(_UPRIGHT_FROM_STORED_LINEAR[_checked(orientation)], np.float64)
    height, width = stored_size
    matrix = np.eye(3)
    matrix[:2, :2] = linear
    # The far corner of the stored image lands at linear @ (W, H); negative coordinates are shifted back to 0.
    matrix[:2, 2] = np.maximum(-linear @ np.array([width, height], np.float64), 0)
    return matrix


def originals_from_stored(
    orientations: npt.NDArray[np.uint8], stored_sizes: npt.NDArray[np.integer[Any]]
) -> npt.NDArray[np.float64]:
    """Returns `original_from_stored` of many files, (N, 3, 3), from (N,) orientations 1..8 and (N, 2) sizes (H, W)."""
    linear = _LINEAR_PARTS[orientations]
    matrices = np.zeros((len(orientations), 3, 3))
    matrices[:, :2, :2] = linear
    matrices[:, :2, 2] = np.maximum(-(linear @ stored_sizes[:, ::-1, None].astype(np.float64))[..., 0], 0)
    matrices[:, 2, 2] = 1
    return matrices


def stored_from_original(orientation: int, stored_size: tuple[int, int]) -> Matrix:
    """Returns the inverse of `original_from_stored` for the same arguments, exact."""
    forward = original_from_stored(orientation, stored_size)
    matrix = np.eye(3)
    matrix[:2, :2] = forward[:2, :2].T  # a signed permutation: its inverse is its transpose, without rounding
    matrix[:2, 2] = -forward[:2, :2].T @ forward[:2, 2]
    return matrix


def upright_size(orientation: int, stored_size: tuple[int, int]) -> tuple[int, int]:
    """Returns (H, W) of the upright image, from the size (H, W) of the stored file."""
    height, width = stored_size
    return (width, height) if _checked(orientation) >= 5 else (height, width)


def read_exif_orientation(tiff: bytes) -> int:
    """Returns the orientation 1..8 that an EXIF block states, or 1 if it states none.

    Args:
        tiff: the block from its byte-order mark on (what follows "Exif\\0\\0" in a JPEG, a PNG's eXIf chunk).

    Raises:
        ValueError: decoders read the tag differently, because it is not a single 16-bit number, its directory is cut short, or
            the block has no byte-order mark.
    """
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None and any(struct.pack(any_order + "H", _ORIENTATION_TAG) in tiff for any_order in "<>"):
        raise ValueError(f"an EXIF orientation in a block that starts with {tiff[:4]!r}")
    if order is None or len(tiff) < 10:
        return 1
    (directory,) = struct.unpack_from(order + "I", tiff, 4)
    if directory + 2 > len(tiff):
        return 1
    (num_entries,) = struct.unpack_from(order + "H", tiff, directory)
    is_whole = directory + 2 + 12 * num_entries <= len(tiff)
    for start in range(directory + 2, min(directory + 2 + 12 * num_entries, len(tiff) - 11), 12):
        tag, kind, count, value = struct.unpack_from(order + "HHIH", tiff, start)
        if tag != _ORIENTATION_TAG:
            continue
        if kind != _SHORT or count != 1 or not is_whole:
            raise ValueError(
                f"an EXIF orientation of type {kind}, count {count}, in a {'whole' if is_whole else 'cut'} directory"
            )
        return int(value) if 1 <= value <= 8 else 1
    return 1


def _checked(orientation: int) -> int:
    if orientation not in _UPRIGHT_FROM_STORED_LINEAR:
        raise ValueError(f"EXIF orientation is {orientation}; 1..8 expected")
    return int(orientation)
