"""3x3 matrices between pixel frames: float64, for column vectors (x, y, 1). Names read target first.

Coordinates are continuous: pixel (i, j) covers [i, i+1) x [j, j+1) and has its centre at +0.5, as in DALI. OpenCV's warp has pixel
centres at integers; `opencv_from_continuous` converts a matrix for it.
"""

import math

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]


def translation(dx: float, dy: float) -> Matrix:
    """Returns the matrix that moves points by (dx, dy) pixels."""
    return np.array([[1.0, 0.0, dx], [0.0, 1.0, dy], [0.0, 0.0, 1.0]])


def scaling(sx: float, sy: float) -> Matrix:
    """Returns the matrix that scales about the origin."""
    return np.diag([sx, sy, 1.0])


def rotation(degrees: float) -> Matrix:
    """Returns the rotation about the origin; positive angles are counter-clockwise in the image, where y points down."""
    radians = math.radians(degrees)
    cos, sin = math.cos(radians), math.sin(radians)
    return np.array([[cos, sin, 0.0], [-sin, cos, 0.0], [0.0, 0.0, 1.0]])


def slant(gx: float, gy: float) -> Matrix:
    """Returns the perspective that keeps the origin and its neighbourhood and divides a point p by 1 + (gx, gy) . p.

    It is the view of a plane turned away from the camera. Points where the divisor is not positive lie behind the camera.
    """
    return np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [gx, gy, 1.0]])


def resized_from_region(region_xyxy: npt.ArrayLike, resized_size: tuple[int, int]) -> Matrix:
    """Returns the matrix that resizes a region (x0, y0, x1, y1) to (H, W) pixels, per axis from the integer sizes."""
    x0, y0, x1, y1 = np.asarray(region_xyxy, np.float64)
    height, width = resized_size
    return scaling(width / (x1 - x0), height / (y1 - y0)) @ translation(-x0, -y0)


def letterbox_size(original_size: tuple[int, int], longest_side: int) -> tuple[int, int]:
    """Returns (H, W) with the longest side scaled to `longest_side`; each side is at least one pixel."""
    height, width = original_size
    scale = longest_side / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def opencv_from_continuous(matrix: Matrix) -> Matrix:
    """Returns the matrix for pixel centres at integers, as `cv2.warpAffine` and `cv2.warpPerspective` expect it."""
    return translation(-0.5, -0.5) @ matrix @ translation(0.5, 0.5)


def transform_points(matrix: npt.ArrayLike, points: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Returns the points, (n, 2), moved by a 3x3 matrix, affine or a perspective."""
    matrix, points = np.asarray(matrix, np.float64), np.asarray(points, np.float64)
    moved = points @ matrix[:2, :2].T + matrix[:2, 2]
    if is_affine(matrix):
        return moved
    return moved / (points @ matrix[2, :2] + matrix[2, 2])[..., None]


def is_affine(matrices: npt.ArrayLike) -> bool:
    """Returns whether the last row of the 3x3 matrix, or of all matrices (n, 3, 3), is (0, 0, 1)."""
    return bool((np.asarray(matrices)[..., 2, :] == (0, 0, 1)).all())
