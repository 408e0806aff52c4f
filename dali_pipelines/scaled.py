"""Renders an image from its file with `scaled_decode`: libjpeg-turbo decodes a JPEG at a fraction of its size.

A JPEG decoded at 1/n has ceil(side / n) pixels per side. Its pixel i covers n pixels of the stored image, from i * n on; the last
one may reach beyond the border. All coordinates here follow from that, so rounding shifts and stretches nothing.
"""

import threading

import numpy as np

from dali_pipelines.config import PipelineConfig
from dali_pipelines.geometry import translation
from dali_pipelines.rendering import ImageArray, recolour, render, resize, warp
from dali_pipelines.source import PlannedSample, StoredImage
from dali_pipelines.turbojpeg import (
    Encoded,
    decode_reduced,
    decode_upright,
    mirrored_axes,
    suits_turbojpeg,
    turned_upright,
)

FACTORS = (8, 4, 2)
"""Denominators of the scales for which libjpeg-turbo has vectorised code, largest first."""
OVERSAMPLING = 2
"""The decoded image has at least this many times the pixels that are needed, per axis: the triangle filter does the rest."""

MAX_REUSED_BYTES = 48_000_000
"""Largest decoded image, 16 megapixels, whose memory a thread keeps for its next image."""
_of_thread = threading.local()


def render_file(
    encoded: Encoded, stored: StoredImage, sample: PlannedSample, config: PipelineConfig, *, training: bool
) -> ImageArray:
    """Returns what `rendering.render` returns, from the content of a file, decoded no larger than needed.

    Raises:
        ValueError, OSError: the file is no image, a damaged one, or of another size than planned.
    """
    factor = reduction(sample)
    if factor == 1 or not suits_turbojpeg(encoded):
        memory = _reused_memory(3 * stored.size[0] * stored.size[1])
        original = decode_upright(encoded, stored.orientation, stored_size=stored.size, memory=memory)
        return render(original, sample, config, training=training)
    reduced = decode_reduced(encoded, factor, stored.size)
    if training:
        return _training_crop(reduced, factor, stored, sample, config)
    return _whole(reduced, factor, stored, sample.resized_size)


def reduction(sample: PlannedSample) -> int:
    """Returns the largest factor, 1 included, that leaves `OVERSAMPLING` times the planned size on both axes."""
    x0, y0, x1, y1 = sample.region_xyxy
    height, width = sample.resized_size
    shrinks_by = min((y1 - y0) / height, (x1 - x0) / width)
    return next((factor for factor in FACTORS if shrinks_by >= OVERSAMPLING * factor), 1)


def _reused_memory(num_bytes: int) -> ImageArray | None:
    """Returns memory of this thread, (num_bytes,), valid until the next call in this thread; None for very large images.

    The system clears new pages at their first touch and takes them back when they are freed, in a way that disturbs other threads:
    decoding a receipt in two threads takes 2.7 ms of processor time in new memory and 1.8 ms in this.
    """
    if num_bytes > MAX_REUSED_BYTES:
        return None
    memory = getattr(_of_thread, "memory", None)
    if memory is None or len(memory) < num_bytes:
        memory = _of_thread.memory = np.empty(num_bytes, np.uint8)
    return memory[:num_bytes]


def _whole(reduced: ImageArray, factor: int, stored: StoredImage, resized_size: tuple[int, int]) -> ImageArray:
    """Resizes a whole image as it is stored, where both axes begin at 0, and turns the result upright."""
    target = resized_size[::-1] if stored.orientation >= 5 else resized_size
    height, width = stored.size
    resized = resize(reduced, target, (height / factor, width / factor))
    return np.ascontiguousarray(turned_upright(resized, stored.orientation))


def _training_crop(
    reduced: ImageArray, factor: int, stored: StoredImage, sample: PlannedSample, config: PipelineConfig
) -> ImageArray:
    upright = turned_upright(reduced, stored.orientation)
    available = np.array(upright.shape[:2])
    # The last reduced pixel as stored may reach beyond the image. Where EXIF mirrors an axis, that surplus lies before its start.
    surplus = np.where(mirrored_axes(stored.orientation), available * factor - stored.upright_size, 0)
    x0, y0, x1, y1 = sample.region_xyxy.astype(np.float64)
    start, end = (np.array([y0, x0]) + surplus) / factor, (np.array([y1, x1]) + surplus) / factor
    scale = (end - start) / sample.resized_size  # reduced pixels per resized pixel, at least OVERSAMPLING
    first = np.floor(start).astype(int)
    last = np.minimum(np.ceil(end + scale).astype(int), available)  # the last line's filter sees its real neighbours
    part = np.ascontiguousarray(upright[first[0] : last[0], first[1] : last[1]])
    resized = resize(part, sample.resized_size, (float(end[0] - start[0]), float(end[1] - start[1])))
    # The part begins at a whole reduced pixel, up to half a resized pixel before the region. The warp makes up for that.
    shift_y, shift_x = (start - first) / scale
    matrix = sample.input_from_resized @ translation(-shift_x, -shift_y)
    warped = warp(resized, matrix, config.crop_size, config.in_perspective)
    return recolour(warped, sample.colour_matrix)
