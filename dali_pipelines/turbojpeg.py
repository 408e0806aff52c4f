"""Decodes image files on the CPU without DALI: by libjpeg-turbo, or by Pillow where that does not take the file."""

import io

import numpy as np
import simplejpeg
from PIL import Image

from dali_pipelines.rendering import IMAGE_REPLACED, ImageArray

Encoded = bytes | ImageArray
"""Content of an image file, as bytes or as (n,) uint8."""


def decode_upright(
    encoded: Encoded,
    orientation: int,
    use_turbojpeg: bool = True,
    stored_size: tuple[int, int] | None = None,
    memory: ImageArray | None = None,
) -> ImageArray:
    """Returns the upright image, (H, W, 3) RGB uint8, turned by its EXIF orientation 1 to 8.

    Args:
        stored_size: (H, W) that the header must state; None: any. Another image is refused before it is decoded, as a file of
            30 KB may decode to 13 GB.
        memory: (3 H W,) uint8 for the result, which may then be a view of it; None: new memory.

    Raises:
        ValueError, OSError: the bytes are no image, a damaged one, or one of another size.
    """
    return np.ascontiguousarray(
        turned_upright(_decode_stored(encoded, use_turbojpeg, stored_size, memory), orientation)
    )


def decode_reduced(encoded: Encoded, factor: int, stored_size: tuple[int, int]) -> ImageArray:
    """Returns an image as it is stored, decoded at 1/factor of its size, (ceil(H / factor), ceil(W / factor), 3) RGB uint8.

    Args:
        encoded: a file that `suits_turbojpeg`.
        factor: 2, 4 or 8.
        stored_size: (H, W) that the header must state.

    Raises:
        ValueError: the file is damaged, or the image has another size.
    """
    _check_size(simplejpeg.decode_jpeg_header(encoded)[:2], stored_size)
    height, width = (-(-side // factor) for side in stored_size)
    return simplejpeg.decode_jpeg(encoded, "RGB", min_height=height, min_width=width, min_factor=factor)


def _decode_stored(
    encoded: Encoded, use_turbojpeg: bool, stored_size: tuple[int, int] | None, memory: ImageArray | None
) -> ImageArray:
    if use_turbojpeg and suits_turbojpeg(encoded):
        _check_size(simplejpeg.decode_jpeg_header(encoded)[:2], stored_size)
        return simplejpeg.decode_jpeg(encoded, colorspace="RGB", buffer=memory)
    try:
        with Image.open(io.BytesIO(encoded if isinstance(encoded, bytes) else encoded.data)) as image:
            _check_size((image.height, image.width), stored_size)
            return np.asarray(image.convert("RGB"))
    except SizeError:
        raise
    except Image.DecompressionBombError as error:
        raise SizeError(
            f"{error} This image was {IMAGE_REPLACED}" if stored_size is not None else str(error)
        ) from error
    except MemoryError:
        raise
    except Exception as error:  # on broken files Pillow raises SyntaxError, struct.error, DecompressionBombError, ...
        raise ValueError(f"Pillow cannot decode it: {error}") from error


class SizeError(ValueError):
    """An image does not have the size that it had when it was checked."""


def _check_size(found: tuple[int, int], stored_size: tuple[int, int] | None) -> None:
    if stored_size is not None and found != stored_size:
        (height, width), (expected_height, expected_width) = found, stored_size
        raise SizeError(
            f"the image is {width} x {height} pixels, expected {expected_width} x {expected_height}: {IMAGE_REPLACED}"
        )


def suits_turbojpeg(encoded: Encoded) -> bool:
    """Returns whether TurboJPEG decodes this file: a JPEG, not CMYK, and not of a rare sampling such as 4:1:0."""
    if bytes(encoded[:2]) != b"\xff\xd8":
        return False
    try:
        return simplejpeg.decode_jpeg_header(encoded)[2] in ("YCbCr", "Gray")
    except ValueError:
        return False


def turned_upright(stored: ImageArray, orientation: int) -> ImageArray:
    """Returns a view of the image, (H, W) or (H, W, 3), turned by its EXIF orientation 1 to 8."""
    if orientation >= 5:
        stored = stored.swapaxes(0, 1)
    flip_y, flip_x = mirrored_axes(orientation)
    return stored[:: -1 if flip_y else 1, :: -1 if flip_x else 1]


def mirrored_axes(orientation: int) -> tuple[bool, bool]:
    """Returns whether the y and the x axis of the upright image run against those that are stored, after any transposition."""
    return orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
