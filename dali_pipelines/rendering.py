"""What the graphs of train.py and eval.py do to a decoded image, on the CPU and without DALI's operators: far cheaper there.

Receipts of 1 megapixel to a longest side of 640, one Zen 5 core: DALI's antialiased resize takes 4.2 ms, Pillow's 3.9, this one
0.9. For evaluation the pixels differ from those of DALI's operators by one level at most.
"""

import math

import cv2
import numpy as np
import numpy.typing as npt
import torch

from dali_pipelines.geometry import Matrix, opencv_from_continuous

ImageArray = npt.NDArray[np.uint8]

EXCHANGED = "exchanged since it was checked"
"""Ends the message about an image that is not of the size it was planned with."""

# OpenCV's own threads save nothing beside workers and post-processing threads, and cost 45 % more processor time there. Worse: a
# worker that is forked while they exist waits for them for good.
cv2.setNumThreads(1)


def resize_region(
    original: ImageArray, region_xyxy: npt.NDArray[np.float32], resized_size: tuple[int, int]
) -> ImageArray:
    """The region, resized with an antialiased triangle filter.

    Where the filter reaches beyond the region, it sees the outermost pixels again. DALI does so at the border of the image only;
    but a plan's region either ends there, or is larger than what is seen of it.

    Args:
        original: (H, W, 3) RGB levels.
        region_xyxy: (4,) whole pixels.
        resized_size: (H, W).

    Returns:
        (H, W, 3) RGB levels.

    Raises:
        ValueError: the image ends within the region.
    """
    x0, y0, x1, y1 = (int(value) for value in region_xyxy)
    height, width = original.shape[:2]
    if height < y1 or width < x1:
        raise ValueError(f"the image is {height} x {width}, expected {y1} x {x1} at least: {EXCHANGED}")
    return _resize(
        np.require(original[y0:y1, x0:x1], requirements="W"), resized_size
    )  # torch warns of read-only arrays


def resize_whole(
    original: ImageArray, region_xyxy: npt.NDArray[np.float32], resized_size: tuple[int, int]
) -> ImageArray:
    """`resize_region` where the region is the whole image; ValueError if the image is a larger one, too."""
    height, width = original.shape[:2]
    expected_width, expected_height = (int(value) for value in region_xyxy[2:])
    if (height, width) != (expected_height, expected_width):
        raise ValueError(f"the image is {height} x {width}, expected {expected_height} x {expected_width}: {EXCHANGED}")
    return resize_region(original, region_xyxy, resized_size)


def _resize(image: ImageArray, size: tuple[int, int]) -> ImageArray:
    """PyTorch leaves out what lies beyond the image. Its first and last line are mixed with the outermost pixels for that: a
    filter of several weights there is one weight of their sum, and no other line reaches so far."""
    resized = _resize_without_border(image, size)
    share_y, share_x = (_share_beyond(*sides) for sides in zip(image.shape, size, strict=False))
    if share_y:
        _mix_in(resized, _resize_without_border(image[[0, -1]], (2, size[1])), share_y)
    if share_x:
        _mix_in(resized.transpose(1, 0, 2), _resize(image[:, [0, -1]], (size[0], 2)).transpose(1, 0, 2), share_x)
    return resized


def _resize_without_border(image: ImageArray, size: tuple[int, int]) -> ImageArray:
    # uint8 in this very layout: PyTorch has vector instructions for it.
    planes_BCHW = torch.from_numpy(image)[None].permute(0, 3, 1, 2)
    resized_BCHW = torch.nn.functional.interpolate(planes_BCHW, size=size, mode="bilinear", antialias=True)
    return np.ascontiguousarray(resized_BCHW[0].permute(1, 2, 0).numpy())


def _share_beyond(source_side: int, target_side: int) -> float:
    """What part of the weights of the first target pixel falls on pixels before the first of the source."""
    scale = source_side / target_side
    if scale <= 1:  # one pixel is left then, and counts in full
        return 0.0
    centres = np.arange(-math.ceil(scale), math.ceil(2 * scale)) + 0.5
    weights = np.maximum(0, 1 - np.abs(centres - scale / 2) / scale)
    return float(weights[centres < 0].sum() / weights.sum())


def _mix_in(lines: ImageArray, outermost: ImageArray, share: float) -> None:
    """Changes the first and the last of `lines` (n, m, 3) in place: a share of each comes from `outermost` (2, m, 3)."""
    share_of_first = (
        share / (1 - share) if len(lines) == 1 else share
    )  # the only line gets both: 1 - 2 share are its own
    for line, outer, part in zip((lines[0], lines[-1]), outermost, (share_of_first, share), strict=True):
        line[:] = np.rint(line + part * (outer.astype(np.float32) - line))


def warp(resized: ImageArray, input_from_resized: Matrix, size: int) -> ImageArray:
    """(size, size, 3) RGB levels; what lies outside the image is black. The scale is done before, so no filter is needed."""
    matrix = opencv_from_continuous(input_from_resized)[:2]
    return cv2.warpAffine(resized, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)


def recolour(image: ImageArray, colour_matrix: npt.NDArray[np.float32]) -> ImageArray:
    """RGB levels through a (3, 4) matrix, clamped to 0 to 255."""
    return cv2.transform(image, colour_matrix)
