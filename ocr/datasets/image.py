"""Decoding and resampling for `loader=torch`: what DALI does, with libjpeg-turbo, Pillow and OpenCV."""

import io
import math

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image

from dali_pipelines.config import PipelineConfig
from dali_pipelines.geometry import opencv_from_continuous
from dali_pipelines.source import PlannedSample

ImageArray = npt.NDArray[np.uint8]

# OpenCV's own threads save nothing beside workers and post-processing threads, and cost 45 % more processor time there. Worse: a
# worker that is forked while they exist waits for them for good.
cv2.setNumThreads(1)


def decode_upright(encoded: bytes, orientation: int, use_turbojpeg: bool = True) -> ImageArray:
    """(H, W, 3) RGB levels, turned by the EXIF orientation 1 to 8.

    Raises:
        ValueError, OSError: the bytes are no image, or a damaged one.
    """
    return np.ascontiguousarray(_turned_upright(_decode_stored(encoded, use_turbojpeg), orientation))


def _decode_stored(encoded: bytes, use_turbojpeg: bool) -> ImageArray:
    if use_turbojpeg and _suits_turbojpeg(encoded):
        return simplejpeg.decode_jpeg(encoded, colorspace="RGB")
    with Image.open(io.BytesIO(encoded)) as image:
        return np.asarray(image.convert("RGB"))


def _suits_turbojpeg(encoded: bytes) -> bool:
    """Whether its decoder takes this file: not CMYK, not the rare samplings such as 4:1:0."""
    if encoded[:2] != b"\xff\xd8":
        return False
    try:
        return simplejpeg.decode_jpeg_header(encoded)[2] in ("YCbCr", "Gray")
    except ValueError:
        return False


def _turned_upright(stored: ImageArray, orientation: int) -> ImageArray:
    if orientation >= 5:
        stored = stored.transpose(1, 0, 2)
    # After the transposition of 5 to 8: which axes still run backwards.
    flip_y = orientation in (3, 4, 7, 8)
    flip_x = orientation in (2, 3, 6, 7)
    return stored[:: -1 if flip_y else 1, :: -1 if flip_x else 1]


def render(original: ImageArray, sample: PlannedSample, config: PipelineConfig, *, training: bool) -> ImageArray:
    """(S, S, 3) RGB levels of the network's input, as the plan says; what lies outside the image is black."""
    resized = _resized_region(original, sample)
    size = config.input_size(training)
    if not training:
        height, width = sample.resized_size
        return cv2.copyMakeBorder(resized, 0, size - height, 0, size - width, cv2.BORDER_CONSTANT, value=(0, 0, 0))
    matrix = opencv_from_continuous(sample.input_from_resized)[:2]
    warped = cv2.warpAffine(resized, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    return cv2.transform(warped, sample.colour_matrix)


def _resized_region(original: ImageArray, sample: PlannedSample) -> ImageArray:
    """The planned region, resized with an antialiased triangle filter.

    Pillow's bilinear filter is that one (OpenCV's is not antialiased). At the image's border DALI repeats the outermost pixels
    where Pillow renormalises its weights, so they are repeated here before Pillow sees them.
    """
    height, width = sample.resized_size
    x0, y0, x1, y1 = (int(value) for value in sample.region_xyxy)
    margin_x, margin_y = _filter_reach(x1 - x0, width), _filter_reach(y1 - y0, height)
    left, top = max(x0 - margin_x, 0), max(y0 - margin_y, 0)
    seen = original[top : y1 + margin_y, left : x1 + margin_x]
    seen = cv2.copyMakeBorder(
        seen,
        top - (y0 - margin_y),
        y1 + margin_y - (top + seen.shape[0]),
        left - (x0 - margin_x),
        x1 + margin_x - (left + seen.shape[1]),
        cv2.BORDER_REPLICATE,
    )
    box = (margin_x, margin_y, margin_x + x1 - x0, margin_y + y1 - y0)
    return np.asarray(Image.fromarray(seen).resize((width, height), Image.Resampling.BILINEAR, box))


def _filter_reach(source_side: int, target_side: int) -> int:
    """Source pixels that the filter sees beyond the region on either side."""
    return math.ceil(max(1.0, source_side / target_side)) + 1
