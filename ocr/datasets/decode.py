"""Decoding and rendering for `loader=torch`: what DALI does, with libjpeg-turbo, Pillow, PyTorch and OpenCV."""

import io

import numpy as np
import simplejpeg
from PIL import Image

from dali_pipelines.config import PipelineConfig
from dali_pipelines.rendering import ImageArray, recolour, resize_region, resize_whole, warp
from dali_pipelines.source import PlannedSample


def decode_upright(encoded: bytes, orientation: int, use_turbojpeg: bool = True) -> ImageArray:
    """(H, W, 3) RGB levels, turned by the EXIF orientation 1 to 8.

    Raises:
        ValueError, OSError: the bytes are no image, or a damaged one.
    """
    return np.ascontiguousarray(turned_upright(_decode_stored(encoded, use_turbojpeg), orientation))


def _decode_stored(encoded: bytes, use_turbojpeg: bool) -> ImageArray:
    if use_turbojpeg and suits_turbojpeg(encoded):
        return simplejpeg.decode_jpeg(encoded, colorspace="RGB")
    with Image.open(io.BytesIO(encoded)) as image:
        return np.asarray(image.convert("RGB"))


def suits_turbojpeg(encoded: bytes) -> bool:
    """Whether its decoder takes this file: not CMYK, not the rare samplings such as 4:1:0."""
    if encoded[:2] != b"\xff\xd8":
        return False
    try:
        return simplejpeg.decode_jpeg_header(encoded)[2] in ("YCbCr", "Gray")
    except ValueError:
        return False


def turned_upright(stored: ImageArray, orientation: int) -> ImageArray:
    """The image turned by its EXIF orientation 1 to 8: a view."""
    if orientation >= 5:
        stored = stored.transpose(1, 0, 2)
    # After the transposition of 5 to 8: which axes still run backwards.
    flip_y = orientation in (3, 4, 7, 8)
    flip_x = orientation in (2, 3, 6, 7)
    return stored[:: -1 if flip_y else 1, :: -1 if flip_x else 1]


def render(original: ImageArray, sample: PlannedSample, config: PipelineConfig, *, training: bool) -> ImageArray:
    """(H, W, 3) RGB levels of the network's input, as the plan says: the crop of training, what lies outside the image black;
    or the resized image, not yet padded.

    Raises:
        ValueError: the image is not of the size it was planned with.
    """
    if not training:
        return resize_whole(original, sample.region_xyxy, sample.resized_size)
    resized = resize_region(original, sample.region_xyxy, sample.resized_size)
    return recolour(warp(resized, sample.input_from_resized, config.crop_size), sample.colour_matrix)
