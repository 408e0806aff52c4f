"""Turns an image of any mode into 8-bit levels, for images that decoders read differently: 16 bits, transparency, CMYK, Lab, TIFF.

Transparency is composited on white, so hidden colours stay hidden. Levels of 16 bits are scaled to 8 and rounded, as DALI does.
Colour profiles and gamma are not applied; no decoder here applies them.
"""

import io
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from dali_pipelines.rendering import ImageArray
from dali_pipelines.turbojpeg import turned_upright
from ocr.datasets.image_header import ImageHeader, ImageProblem, color_of_mode, open_with_pillow

Samples = npt.NDArray[np.uint16]

_RANGES = (8, 12, 16)
"""Bits that samples stored in 16 bits may have: cameras and scanners write 12, arrays saved without scaling 8."""
_OPPOSITE_ORIENTATION = {6: 8, 8: 6}
"""Orientation that undoes another one; all others undo themselves."""
_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0  # a tag of TIFF, and its value for inverted gray levels


class DecodedLevels(NamedTuple):
    """The levels of an image."""

    levels: ImageArray
    """(H, W) gray or (H, W, 3) RGB uint8."""
    bits: int
    """Bits per sample that the levels were scaled from: 8, 12 or 16."""


def decode_levels(data: bytes, header: ImageHeader) -> DecodedLevels:
    """Returns the levels of a file in its stored frame.

    Raises:
        ImageProblem: the file is damaged or cut short, or its samples have no known range.
    """
    try:
        if header.format == "PNG" and header.bits == 16:
            return _decode_deep_png(data, header)
        decoded = levels_of(_opened(data, header), header.bits)
    except ImageProblem:
        raise
    except Exception as error:  # on broken files Pillow raises SyntaxError, OSError, struct.error, ...
        found = f"{header.format} data that Pillow calls {str(error)!r}"
        raise ImageProblem("damaged", found, f"a whole {header.format}") from error
    if header.format == "TIFF":  # Pillow turns it upright
        back = _OPPOSITE_ORIENTATION.get(header.orientation, header.orientation)
        decoded = decoded._replace(levels=turned_upright(decoded.levels, back))
    return decoded


def levels_of(image: Image.Image, bits: int = 8) -> DecodedLevels:
    """Returns the levels of a Pillow image of any mode, not turned.

    Args:
        bits: bits per sample that its file states; used with modes of 16 bits.

    Raises:
        ImageProblem: the range of its samples is not known (modes I and F).
        OSError, SyntaxError, ValueError: the image is read from a file that is damaged.
    """
    color, key = color_of_mode(image.mode), _clear_level(image)
    if image.mode.startswith("I;16"):
        is_inverted = isinstance(image, TiffImageFile) and image.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO
        samples = np.asarray(image).astype(np.uint16)
        levels, bits = _scaled(samples, bits if 8 < bits < 16 else None)
        return DecodedLevels(_on_white(255 - levels if is_inverted else levels, _alpha_of_key(samples, key)), bits)
    if image.mode == "LAB":
        return DecodedLevels(np.asarray(_rgb_of_lab(image)), 8)
    is_gray = color.startswith("gray")
    if color.endswith("with alpha") or image.mode == "P":
        *colors, alpha_band = image.convert("LA" if is_gray else "RGBA").split()
        bands, alpha = [np.asarray(band) for band in colors], np.asarray(alpha_band)
        is_unused = isinstance(image, BmpImageFile) and not alpha.any()  # many programs leave the fourth byte at 0
        return DecodedLevels(_on_white(bands[0] if is_gray else np.dstack(bands), None if is_unused else alpha), 8)
    levels = np.asarray(image.convert("L" if is_gray else "RGB"))
    return DecodedLevels(_on_white(levels, _alpha_of_key(levels, key)), 8)


def _clear_level(image: Image.Image) -> int | tuple[int, ...] | None:
    """Returns the transparent gray level or colour of an image without a palette, in the range of its mode.

    Pillow scales pixels of 2, 4 and 3 x 16 bits to 8 bits when it decodes them, but not this level.
    """
    key = image.info.get("transparency")
    if image.mode == "P" or not isinstance(key, int | tuple):
        return None
    raw_mode = str(image.tile[0][3]) if isinstance(image, PngImageFile) and image.tile else ""
    if isinstance(key, tuple):
        return tuple(level >> 8 for level in key) if raw_mode == "RGB;16B" else key
    return key * {"L;2": 85, "L;4": 17}.get(raw_mode, 1)


def _alpha_of_key(levels: ImageArray | Samples, key: int | tuple[int, ...] | None) -> ImageArray | None:
    """Returns (H, W), 0 where the levels, (H, W) or (H, W, 3), equal the transparent one, 255 elsewhere."""
    if key is None or np.ndim(key) != levels.ndim - 2:
        return None
    is_clear = levels == np.array(key)
    return np.where(is_clear if levels.ndim == 2 else is_clear.all(axis=2), 0, 255).astype(np.uint8)


def _opened(data: bytes, header: ImageHeader) -> ImageFile:
    readers: dict[str, Callable[[io.BytesIO], ImageFile]] = {"JPEG": JpegImageFile, "PNG": PngImageFile}
    return readers.get(header.format, open_with_pillow)(io.BytesIO(data))


def _decode_deep_png(data: bytes, header: ImageHeader) -> DecodedLevels:
    """Decodes a PNG of 16 bits with OpenCV, which keeps them in colour images too."""
    samples = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if samples is None or samples.dtype != np.uint16 or samples.shape[:2] != header.stored_size:
        raise ImageProblem("damaged", "a 16-bit PNG that OpenCV cannot decode", "a whole PNG")
    alpha = None
    if samples.ndim == 3:
        if samples.shape[2] == 4:
            alpha = _scaled(np.ascontiguousarray(samples[..., 3]), 16)[0]
        samples = np.ascontiguousarray(samples[..., 0] if header.color.startswith("gray") else samples[..., 2::-1])
    if alpha is None and header.color.endswith("with alpha"):
        alpha = _alpha_of_key(samples, PngImageFile(io.BytesIO(data)).info["transparency"])
    levels, bits = _scaled(samples)
    return DecodedLevels(_on_white(levels, alpha), bits)


def _scaled(samples: Samples, bits: int | None = None) -> tuple[ImageArray, int]:
    """Returns samples as levels of 8 bits, and the bits they were scaled from.

    Args:
        bits: bits of the samples; None: the fewest of 8, 12 and 16 that hold the largest sample.
    """
    if bits is None:
        largest = int(samples.max(initial=0))
        bits = next(bits for bits in _RANGES if largest < 2**bits)
    return _levels_by_sample(bits)[samples], bits


@lru_cache
def _levels_by_sample(bits: int) -> ImageArray:
    """Returns (65536,) uint8, the rounded level of each sample of `bits` bits."""
    top = 2**bits - 1
    return ((np.arange(2**16).clip(max=top) * 255 + top // 2) // top).astype(np.uint8)


def _on_white(levels: ImageArray, alpha: ImageArray | None) -> ImageArray:
    """Returns levels, (H, W) or (H, W, 3), composited on white by alpha, (H, W) uint8."""
    if alpha is None:
        return levels
    weight = (alpha if levels.ndim == 2 else alpha[..., None]).astype(np.uint16)
    return ((levels * weight + 255 * (255 - weight) + 127) // 255).astype(np.uint8)


def _rgb_of_lab(image: Image.Image) -> Image.Image:
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    converted = ImageCms.applyTransform(image, ImageCms.buildTransform(lab, srgb, "LAB", "RGB"))
    assert converted is not None  # None only if it works in place
    return converted
