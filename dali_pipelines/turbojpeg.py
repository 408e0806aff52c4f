"""Decodes image files on the CPU without DALI: by libjpeg-turbo, or by Pillow where that does not take the file."""

import io

import numpy as np
import simplejpeg
from PIL import Image

from dali_pipelines.rendering import ImageArray

Encoded = bytes | ImageArray
"""Content of an image file, as bytes or as (n,) uint8."""


def decode_upright(encoded: Encoded, orientation: int, use_turbojpeg: bool = True) -> ImageArray:
    """Returns the upright image, (H, W, 3) RGB uint8, turned by its EXIF orientation 1 to 8.

    Raises:
        ValueError, OSError: the bytes are no image, or a damaged one.
    """
    return np.ascontiguousarray(turned_upright(_decode_stored(encoded, use_turbojpeg), orientation))


def _decode_stored(encoded: Encoded, use_turbojpeg: bool) -> ImageArray:
    if use_turbojpeg and suits_turbojpeg(encoded):
        return simplejpeg.decode_jpeg(encoded, colorspace="RGB")
    try:
        with Image.open(io.BytesIO(bytes(encoded))) as image:
            return np.asarray(image.convert("RGB"))
    except MemoryError:
        raise
    except Exception as error:  # on broken files Pillow raises SyntaxError, struct.error, DecompressionBombError, ...
        raise ValueError(f"Pillow cannot decode it: {error}") from error


def suits_turbojpeg(encoded: Encoded) -> bool:
    """Returns whether TurboJPEG decodes this file: a JPEG, not CMYK, and not of a rare sampling such as 4:1:0."""
    if bytes(encoded[:2]) != b"\xff\xd8":
        return False
    try:
        return simplejpeg.decode_jpeg_header(encoded)[2] in ("YCbCr", "Gray")
    except ValueError:
        return False


def turned_upright(stored: ImageArray, orientation: int) -> ImageArray:
    """Returns a view of the image, turned by its EXIF orientation 1 to 8."""
    if orientation >= 5:
        stored = stored.transpose(1, 0, 2)
    # The axes that still run backwards after the transposition of 5 to 8.
    flip_y = orientation in (3, 4, 7, 8)
    flip_x = orientation in (2, 3, 6, 7)
    return stored[:: -1 if flip_y else 1, :: -1 if flip_x else 1]
