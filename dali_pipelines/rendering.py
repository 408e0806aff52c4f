"""Resizes, warps and recolours a decoded image on the CPU, in place of DALI's CPU operators, which are slower.

Receipts of 1 megapixel to a longest side of 640, one Zen 5 core: DALI's antialiased resize takes 4.2 ms, Pillow's 3.9 ms, this one
0.9 ms. In evaluation the pixels differ from those of DALI's operators by at most one level. Importing this module needs no DALI.
"""

import math

import cv2
import numpy as np
import numpy.typing as npt
import torch

from dali_pipelines.config import PipelineConfig
from dali_pipelines.geometry import Matrix, opencv_from_continuous
from dali_pipelines.source import PlannedSample

ImageArray = npt.NDArray[np.uint8]

IMAGE_REPLACED = "replaced since it was checked"
"""End of the error message about an image that does not have the planned size."""

# Beside workers and post-processing threads, OpenCV's own threads save no time and cost 45 % more CPU time. Worse, a worker forked
# while they exist waits for them forever.
cv2.setNumThreads(1)


def render(
    original: ImageArray,
    sample: PlannedSample,
    config: PipelineConfig,
    *,
    training: bool,
    upright_size: tuple[int, int] | None = None,
) -> ImageArray:
    """Returns the planned network input before normalisation, (H, W, 3) RGB levels.

    In training this is the crop, black outside the image; in evaluation the resized image, not yet padded.

    Args:
        upright_size: (H, W) that the image was planned with; None: an image that contains the planned region will do.

    Raises:
        ValueError: the image does not have the size that it was planned with.
    """
    if upright_size is not None:
        _refuse_other_size(original, upright_size)
    if not training:
        return resize_whole(original, sample.region_xyxy, sample.resized_size)
    resized = resize_region(original, sample.region_xyxy, sample.resized_size)
    return recolour(
        warp(resized, sample.input_from_resized, config.crop_size, config.in_perspective), sample.colour_matrix
    )


def resize_region(
    original: ImageArray, region_xyxy: npt.NDArray[np.float32], resized_size: tuple[int, int]
) -> ImageArray:
    """Returns a region of an image, resized with an antialiased triangle filter.

    Beyond the border of the region, the filter repeats the outermost pixels. DALI does so only at the border of the image. The
    results agree, because a planned region either ends at that border or extends beyond the part that stays visible.

    Args:
        original: (H, W, 3) RGB levels.
        region_xyxy: (4,) whole pixels.
        resized_size: (H, W).

    Returns:
        (H, W, 3) RGB levels.

    Raises:
        ValueError: the region exceeds the image.
    """
    x0, y0, x1, y1 = (int(value) for value in region_xyxy)
    height, width = original.shape[:2]
    if height < y1 or width < x1:
        raise ValueError(f"the image is {width} x {height} pixels, expected {x1} x {y1} at least: {IMAGE_REPLACED}")
    region = np.require(original[y0:y1, x0:x1], requirements="W")  # PyTorch warns about read-only arrays
    return resize(region, resized_size)


def resize_whole(
    original: ImageArray, region_xyxy: npt.NDArray[np.float32], resized_size: tuple[int, int]
) -> ImageArray:
    """Returns a whole image, resized by `resize_region`. Raises ValueError if the image is not exactly as large as the region."""
    _refuse_other_size(original, (int(region_xyxy[3]), int(region_xyxy[2])))
    return resize_region(original, region_xyxy, resized_size)


def _refuse_other_size(original: ImageArray, expected: tuple[int, int]) -> None:
    height, width = original.shape[:2]
    if (height, width) != expected:
        raise ValueError(
            f"the image is {width} x {height} pixels, expected {expected[1]} x {expected[0]}: {IMAGE_REPLACED}"
        )


def resize(image: ImageArray, size: tuple[int, int], sides: tuple[float, float] | None = None) -> ImageArray:
    """Returns the resized image, with the outermost pixels repeated beyond its border.

    PyTorch's filter ignores everything beyond the border. The missing weights all fall on repeated pixels, so they are added to the
    first and the last line afterwards as one weight; the filter of no other line reaches that far.

    Args:
        image: (H, W, 3) RGB levels.
        size: (H, W) of the result.
        sides: (H, W) in pixels of what is resized, from the first pixel on. It may end within the last pixel, or earlier: the
            filter of the last lines then sees the pixels behind it. None: the whole image.
    """
    resized = _resize_without_border(image, size, sides)
    shares_y, shares_x = (
        (_share_beyond(side / target, 0.0), _share_beyond(side / target, number - side))
        for number, side, target in zip(image.shape, sides or image.shape, size, strict=False)
    )
    if any(shares_y):
        sides_of_lines = None if sides is None else (2.0, sides[1])
        _mix_in(resized, _resize_without_border(image[[0, -1]], (2, size[1]), sides_of_lines), shares_y)
    if any(shares_x):
        sides_of_lines = None if sides is None else (sides[0], 2.0)
        outermost = resize(image[:, [0, -1]], (size[0], 2), sides_of_lines)
        _mix_in(resized.transpose(1, 0, 2), outermost.transpose(1, 0, 2), shares_x)
    return resized


def _resize_without_border(image: ImageArray, size: tuple[int, int], sides: tuple[float, float] | None) -> ImageArray:
    # PyTorch has vectorised code for uint8 in this memory layout.
    planes_BCHW = torch.from_numpy(image)[None].permute(0, 3, 1, 2)
    if sides is None:
        resized_BCHW = torch.nn.functional.interpolate(planes_BCHW, size=size, mode="bilinear", antialias=True)
    else:  # the operator behind `interpolate`, which itself takes either a size or a scale
        scale_y, scale_x = (target / side for target, side in zip(size, sides, strict=True))
        resized_BCHW = torch.ops.aten._upsample_bilinear2d_aa(planes_BCHW, size, False, scale_y, scale_x)
    return np.ascontiguousarray(resized_BCHW[0].permute(1, 2, 0).numpy())


def _share_beyond(scale: float, overhang: float) -> float:
    """Returns the share of an outermost target pixel's weights that falls beyond the source pixels.

    Args:
        scale: source pixels per target pixel.
        overhang: source pixels between the border of what is resized and the last source pixel's outer border.
    """
    if scale <= 1:  # one source pixel has all the weight
        return 0.0
    inside = np.arange(-math.ceil(scale), math.ceil(2 * scale) + math.ceil(overhang))
    centres = inside + 0.5 - overhang
    weights = np.maximum(0, 1 - np.abs(centres - scale / 2) / scale)
    return float(weights[inside < 0].sum() / weights.sum())


def _mix_in(lines: ImageArray, outermost: ImageArray, shares: tuple[float, float]) -> None:
    """Mixes shares of the two lines `outermost` (2, m, 3) into the first and the last of `lines` (n, m, 3), in place."""
    first, last = shares
    # A single line gets both and keeps 1 - first - last of its own.
    parts = (first / (1 - last) if len(lines) == 1 else first, last)
    for line, outer, part in zip((lines[0], lines[-1]), outermost, parts, strict=True):
        line[:] = np.rint(line + part * (outer.astype(np.float32) - line))


def warp(resized: ImageArray, input_from_resized: Matrix, size: int, in_perspective: bool) -> ImageArray:
    """Returns (size, size, 3) RGB levels, black outside the image. The image is already scaled, so no filter is needed.

    in_perspective: the matrix may be a perspective; otherwise its last row is (0, 0, 1).
    """
    matrix = opencv_from_continuous(input_from_resized)
    if in_perspective:
        return cv2.warpPerspective(
            resized, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT
        )
    return cv2.warpAffine(resized, matrix[:2], (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)


def recolour(image: ImageArray, colour_matrix: npt.NDArray[np.float32]) -> ImageArray:
    """Returns RGB levels multiplied by a (3, 4) matrix, clamped to 0 to 255."""
    return cv2.transform(image, colour_matrix)
