"""Pages turned by quarter turns, and the way back."""

import numpy as np

from dali_pipelines.geometry import Matrix
from dali_pipelines.rendering import ImageArray
from ocr.postprocess.boxes import Detections, moved_detections


def turned(image: ImageArray, rotation: int) -> ImageArray:
    """Returns an image (H, W, 3) turned clockwise by 0, 90, 180 or 270 degrees."""
    return np.ascontiguousarray(np.rot90(image, -rotation // 90))


def turned_size(size: tuple[int, int], rotation: int) -> tuple[int, int]:
    """Returns the (H, W) of an image of this size after a turn by quarter turns."""
    height, width = size
    return (height, width) if rotation % 180 == 0 else (width, height)


def view_from_original(rotation: int, original_size: tuple[int, int]) -> Matrix:
    """Returns the (3, 3) matrix from pixels of an image to those of the image turned clockwise.

    Args:
        original_size: (H, W) before the turn.
    """
    height, width = original_size
    rows = {
        0: ((1, 0, 0), (0, 1, 0)),
        90: ((0, -1, height), (1, 0, 0)),
        180: ((-1, 0, width), (0, -1, height)),
        270: ((0, 1, 0), (-1, 0, width)),
    }
    return np.array([*rows[rotation], (0, 0, 1)], np.float64)


def turned_back(detections_view: Detections, rotation: int, original_size: tuple[int, int]) -> Detections:
    """Returns detections in a turned page in pixels of the page before the turn.

    The first edge of a polygon stays the upper one in the reading direction that the turned page showed.
    """
    if rotation == 0:
        return detections_view
    matrix = np.linalg.inv(view_from_original(rotation, original_size))
    return moved_detections(detections_view, matrix, original_size)
