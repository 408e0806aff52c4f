"""What the graphs of train.py and eval.py do to a decoded image, on the CPU and without DALI's operators: far cheaper there.

Receipts of 1 megapixel to a longest side of 640, one Zen 5 core: DALI's antialiased resize takes 4.2 ms and Pillow's 3.9, this
one 1.1 with its edges. The pixels differ from those of DALI's operators by at most one level for evaluation.
"""

import math

import cv2
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from dali_pipelines.geometry import Matrix, opencv_from_continuous

ImageArray = npt.NDArray[np.uint8]


def resize_region(
    original: ImageArray, region_xyxy: npt.NDArray[np.float32], resized_size: tuple[int, int]
) -> ImageArray:
    """The region, resized with an antialiased triangle filter. Beyond it the filter sees the image, and beyond the image its
    outermost pixels again, as in DALI.

    Args:
        original: (H, W, 3) RGB levels.
        region_xyxy: (4,) whole pixels, inside the image.
        resized_size: (H, W).

    Returns:
        (H, W, 3) RGB levels.
    """
    x0, y0, x1, y1 = (int(value) for value in region_xyxy)
    height, width = resized_size
    region = torch.from_numpy(np.require(original[y0:y1, x0:x1], requirements="W"))  # else torch warns
    # uint8 in this very layout: PyTorch has vector instructions for it.
    planes_BCHW = torch.nn.functional.interpolate(
        region[None].permute(0, 3, 1, 2), size=resized_size, mode="bilinear", antialias=True
    )
    resized = np.ascontiguousarray(planes_BCHW[0].permute(1, 2, 0).numpy())
    # It has seen nothing beyond the region. The pixels that should have are made again.
    num_rows, num_columns = _num_at_edge(y1 - y0, height), _num_at_edge(x1 - x0, width)
    for top, bottom in ((0, num_rows), (height - num_rows, height)):
        resized[top:bottom] = _resized_part(original, (x0, y0, x1, y1), resized_size, (0, top, width, bottom))
    for left, right in ((0, num_columns), (width - num_columns, width)):
        resized[:, left:right] = _resized_part(original, (x0, y0, x1, y1), resized_size, (left, 0, right, height))
    return resized


def _num_at_edge(source_side: int, target_side: int) -> int:
    """Target pixels at either end whose filter reaches beyond the region: pixel i if (i + 1/2) scale < reach."""
    scale = source_side / target_side
    return min(target_side, math.ceil(max(1.0, scale) / scale - 0.5))


def _resized_part(
    original: ImageArray,
    region_xyxy: tuple[int, int, int, int],
    resized_size: tuple[int, int],
    part_xyxy: tuple[int, int, int, int],
) -> ImageArray:
    """A part of the resized region, given in its own pixels, by Pillow: its bilinear filter is the antialiased triangle, and
    takes a box of an image. At the image's border it renormalises its weights; it is shown the outermost pixels again."""
    scale_x = (region_xyxy[2] - region_xyxy[0]) / resized_size[1]
    scale_y = (region_xyxy[3] - region_xyxy[1]) / resized_size[0]
    x0, x1 = (region_xyxy[0] + x * scale_x for x in part_xyxy[::2])
    y0, y1 = (region_xyxy[1] + y * scale_y for y in part_xyxy[1::2])
    reach_x, reach_y = math.ceil(max(1.0, scale_x)), math.ceil(max(1.0, scale_y))
    left, right = math.floor(x0) - reach_x, math.ceil(x1) + reach_x
    top, bottom = math.floor(y0) - reach_y, math.ceil(y1) + reach_y
    height, width = original.shape[:2]
    seen = cv2.copyMakeBorder(
        original[max(top, 0) : bottom, max(left, 0) : right],
        max(-top, 0),
        max(bottom - height, 0),
        max(-left, 0),
        max(right - width, 0),
        cv2.BORDER_REPLICATE,
    )
    size = part_xyxy[2] - part_xyxy[0], part_xyxy[3] - part_xyxy[1]
    box = (x0 - left, y0 - top, x1 - left, y1 - top)
    return np.asarray(Image.fromarray(seen).resize(size, Image.Resampling.BILINEAR, box))


def warp(resized: ImageArray, input_from_resized: Matrix, size: int) -> ImageArray:
    """(size, size, 3) RGB levels; what lies outside the image is black. The scale is done before, so no filter is needed."""
    matrix = opencv_from_continuous(input_from_resized)[:2]
    return cv2.warpAffine(resized, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)


def recolour(image: ImageArray, colour_matrix: npt.NDArray[np.float32]) -> ImageArray:
    """RGB levels through a (3, 4) matrix, clamped to 0 to 255."""
    return cv2.transform(image, colour_matrix)
