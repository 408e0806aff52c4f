"""Computes the output that the GPU's graphs must give, step by step in float64 NumPy, without any code of the graphs.

Pillow decodes the files. Each step rounds to whole levels, as the graphs do between their operators.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

Floats = npt.NDArray[np.float64]


def upright(path: Path) -> Floats:
    """Returns (H, W, 3) RGB levels, turned upright by EXIF."""
    with Image.open(path) as opened:
        return np.asarray(ImageOps.exif_transpose(opened).convert("RGB"), np.float64)


def resize(image: Floats, start_yx: npt.ArrayLike, end_yx: npt.ArrayLike, size: tuple[int, int]) -> Floats:
    """Returns a region, resized to (H, W) with a triangle filter that is as wide as a target pixel.

    The filter reaches beyond the region. Beyond the image it repeats the outermost pixels.
    """
    corners = zip(np.asarray(start_yx, np.float64), np.asarray(end_yx, np.float64), size, strict=True)
    for axis, (start, end, target) in enumerate(corners):
        side = image.shape[axis]
        scale = (end - start) / target
        reach = max(1.0, scale)
        weights = np.zeros((target, side))
        for i in range(target):
            centre = start + (i + 0.5) * scale
            taps = np.arange(np.floor(centre - reach) - 1, np.ceil(centre + reach) + 1)
            shares = np.maximum(0, 1 - np.abs(taps + 0.5 - centre) / reach)
            np.add.at(weights[i], np.clip(taps, 0, side - 1).astype(int), shares / shares.sum())
        image = np.moveaxis(np.tensordot(weights, image, (1, axis)), 0, axis)
    return _levels(image)


def warp(image: Floats, input_from_resized: npt.ArrayLike, size: int) -> Floats:
    """Returns (size, size, 3), interpolated between the four nearest pixels. All pixels outside the image are black.

    input_from_resized: (2, 3), or (3, 3) in perspective.
    """
    height, width = image.shape[:2]
    inverse = np.linalg.inv(np.vstack([np.asarray(input_from_resized, np.float64), (0, 0, 1)])[:3])
    y, x = np.mgrid[:size, :size] + 0.5
    moved_x, moved_y, divisor = (row[0] * x + row[1] * y + row[2] for row in inverse)
    source_x, source_y = moved_x / divisor - 0.5, moved_y / divisor - 0.5
    left, top = np.floor(source_x).astype(int), np.floor(source_y).astype(int)
    warped = np.zeros((size, size, 3))
    for tap_x, share_x in ((left, left + 1 - source_x), (left + 1, source_x - left)):
        for tap_y, share_y in ((top, top + 1 - source_y), (top + 1, source_y - top)):
            inside = (tap_x >= 0) & (tap_x < width) & (tap_y >= 0) & (tap_y < height)
            taps = image[np.clip(tap_y, 0, height - 1), np.clip(tap_x, 0, width - 1)]
            warped += (inside * share_x * share_y)[..., None] * taps
    return _levels(warped)


def recolour(image: Floats, colour_matrix: npt.ArrayLike, offset: npt.ArrayLike) -> Floats:
    """Returns RGB levels multiplied by a (3, 3) matrix, plus an offset."""
    return _levels(np.einsum("ij,yxj->yxi", np.asarray(colour_matrix, np.float64), image) + np.asarray(offset))


def pad(image: Floats, size: int) -> Floats:
    """Returns (size, size, 3), black right and below."""
    padded = np.zeros((size, size, 3))
    padded[: image.shape[0], : image.shape[1]] = image
    return padded


def _levels(image: Floats) -> Floats:
    return np.clip(np.rint(image), 0, 255)
