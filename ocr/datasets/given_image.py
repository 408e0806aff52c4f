"""Reads an image that a Python caller hands over: a path, the bytes of a file, a Pillow image, or an array."""

import io
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from dali_pipelines.rendering import ImageArray
from dali_pipelines.turbojpeg import decode_upright, turned_upright
from ocr.datasets.image_checks import check_pixels, check_scans, check_size, is_progressive
from ocr.datasets.image_header import ImageProblem, read_header
from ocr.datasets.image_levels import decode_levels, levels_of
from ocr.errors import InputError

GivenImage = str | os.PathLike[str] | bytes | Image.Image | ImageArray
"""Path of an image file, content of one, Pillow image of any mode (its current frame), or (H, W, 3) RGB uint8."""

_ORIENTATION_TAG = 0x0112


class ReadImage(NamedTuple):
    """The pixels of a given image, and how they were turned."""

    original: ImageArray
    """(H, W, 3) RGB uint8, upright."""
    orientation: int
    """EXIF orientation of the given image, 1 to 8."""
    stored_size: tuple[int, int]
    """(H, W) of the given image, before EXIF is applied."""


def read_image(given: GivenImage, max_megapixels: float, name: str = "image") -> ReadImage:
    """Returns the upright pixels of an image. Files are decoded as by loader=torch.

    Args:
        max_megapixels: larger images are refused, files before they are decoded.
        name: names the image in error messages; a path is named by itself as well.

    Raises:
        InputError: not an image, a damaged one, or an array of another shape or type.
        FileNotFoundError: no such file.
        OSError: the file cannot be read.
    """
    if isinstance(given, str | os.PathLike):
        name = str(Path(given)) if name == "image" else f"{name}, {Path(given)}"
        given = _file_content(Path(given), name)
    try:
        if isinstance(given, bytes):
            return _decoded(given, max_megapixels)
        if isinstance(given, Image.Image):
            return _converted(given, max_megapixels)
        return _checked(given, max_megapixels)
    except ImageProblem as problem:
        raise InputError(f"{name}: {problem}") from problem


def _file_content(path: Path, name: str) -> bytes:
    if path.is_dir():
        raise InputError(f"{name}: found a folder; expected an image file")
    if not path.is_file():
        raise FileNotFoundError(f"{name}: found no such file; expected an image file")
    return path.read_bytes()


def _decoded(encoded: bytes, max_megapixels: float) -> ReadImage:
    header = read_header(io.BytesIO(encoded))
    check_size(header.stored_size, max_megapixels)
    if is_progressive(header):
        check_scans(encoded)
    check_pixels(header, encoded)  # decoders return damaged files half grey, without an error
    if header.needs_conversion:
        stored = decode_levels(encoded, header).levels
        return ReadImage(_upright_rgb(stored, header.orientation), header.orientation, header.stored_size)
    return ReadImage(decode_upright(encoded, header.orientation), header.orientation, header.stored_size)


def _converted(image: Image.Image, max_megapixels: float) -> ReadImage:
    check_size((image.height, image.width), max_megapixels)
    try:
        stored = levels_of(image).levels
    except ImageProblem:
        raise
    except Exception as error:  # on broken files Pillow raises SyntaxError, OSError, struct.error, ...
        raise ImageProblem("damaged", f"a Pillow image that cannot be decoded: {error}", "a whole image") from error
    tag = image.getexif().get(
        _ORIENTATION_TAG, 1
    )  # now: of a TIFF, Pillow turns the pixels upright and removes the orientation
    orientation = tag if tag in range(1, 9) else 1
    return ReadImage(_upright_rgb(stored, orientation), orientation, stored.shape[:2])


def _upright_rgb(stored: ImageArray, orientation: int) -> ImageArray:
    """Returns the upright image, (H, W, 3), of gray or RGB levels in the stored frame."""
    rgb = stored if stored.ndim == 3 else np.repeat(stored[..., None], 3, axis=2)
    return np.ascontiguousarray(turned_upright(rgb, orientation))


def _checked(image: object, max_megapixels: float) -> ReadImage:
    if not isinstance(image, np.ndarray):
        raise ImageProblem("type", f"a {type(image).__name__}", "a path, bytes, a Pillow image or an array")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ImageProblem("type", f"an array of {image.dtype}, shape {image.shape}", "RGB uint8, (height, width, 3)")
    check_size(image.shape[:2], max_megapixels)
    return ReadImage(np.ascontiguousarray(image), 1, image.shape[:2])
