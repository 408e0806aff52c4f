import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageOps

from ocr.datasets.orientation import (
    original_from_stored,
    read_exif_orientation,
    stored_from_original,
    upright_size,
)

ALL = range(1, 9)


def exif_block(orientation: int, order: str = ">", kind: int = 3, num_entries: int = 1) -> bytes:
    """A minimal EXIF block, from the byte-order mark on."""
    mark = b"MM\0*" if order == ">" else b"II*\0"
    value = struct.pack(order + ("H" if kind == 3 else "I"), orientation).ljust(4, b"\0")
    return mark + struct.pack(order + "IHHHI", 8, num_entries, 0x0112, kind, 1) + value + bytes(4)


def moved(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ matrix[:2, :2].T + matrix[:2, 2]


@pytest.mark.parametrize(
    ("orientation", "expected"),
    [(1, (1, 2)), (2, (9, 2)), (3, (9, 4)), (4, (1, 4)), (5, (2, 1)), (6, (4, 1)), (7, (4, 9)), (8, (2, 9))],
)
def test_point_1_2_of_a_picture_10_wide_and_6_high_moves_as_worked_by_hand(
    orientation: int, expected: tuple[int, int]
) -> None:
    matrix = original_from_stored(orientation, (6, 10))
    np.testing.assert_array_equal(moved(matrix, np.array([[1.0, 2.0]])), [expected])
    assert matrix.dtype == np.float64
    assert matrix.shape == (3, 3)


@pytest.mark.parametrize("orientation", ALL)
def test_every_pixel_lands_where_pillow_puts_it(orientation: int) -> None:
    height, width = 5, 7
    levels = np.arange(height * width, dtype=np.uint8).reshape(height, width)
    encoded = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(levels).save(encoded, "PNG", exif=exif)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(encoded)))

    assert upright.shape == upright_size(orientation, (height, width))
    ys, xs = np.mgrid[:height, :width]
    centres = np.stack([xs.ravel(), ys.ravel()], axis=1) + 0.5
    x, y = np.floor(moved(original_from_stored(orientation, (height, width)), centres)).astype(int).T
    np.testing.assert_array_equal(upright[y, x], levels.ravel())


@pytest.mark.parametrize("orientation", ALL)
def test_the_inverse_undoes_the_matrix_exactly(orientation: int) -> None:
    size = (480, 361)
    product = stored_from_original(orientation, size) @ original_from_stored(orientation, size)
    np.testing.assert_array_equal(product, np.eye(3))


@pytest.mark.parametrize("orientation", [0, 9, -1])
def test_an_invalid_orientation_is_refused(orientation: int) -> None:
    with pytest.raises(ValueError, match=rf"EXIF orientation is {orientation}; 1\.\.8 expected"):
        original_from_stored(orientation, (10, 10))
    with pytest.raises(ValueError, match=r"1\.\.8 expected"):
        upright_size(orientation, (10, 10))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", ALL)
def test_the_tag_is_read_in_both_byte_orders(orientation: int, order: str) -> None:
    assert read_exif_orientation(exif_block(orientation, order)) == orientation


@pytest.mark.parametrize(
    "tiff", [b"", b"II*\0", exif_block(0), exif_block(9), bytes(64), b"II*\0\xff\xff\xff\xff\0\0", exif_block(6)[:8]]
)
def test_a_block_without_a_valid_tag_means_upright(tiff: bytes) -> None:
    assert read_exif_orientation(tiff) == 1


@pytest.mark.parametrize(
    ("tiff", "message"),
    [
        (exif_block(6, kind=4), "type 4, count 1, in a whole directory"),
        (exif_block(6, num_entries=5000), "type 3, count 1, in a cut directory"),
        (exif_block(6).replace(struct.pack(">I", 1), struct.pack(">I", 2)), "type 3, count 2, in a whole directory"),
        (b"XX" + exif_block(6)[2:], "starts with b'XX"),
    ],
)
def test_a_tag_that_decoders_read_differently_is_refused(tiff: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_exif_orientation(tiff)
