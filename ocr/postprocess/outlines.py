"""Turns regions into polygon outlines, for curved text."""

import cv2
import numpy as np
import numpy.typing as npt

from dali_pipelines.compiled import compiled
from ocr.postprocess.config import PostprocessConfig
from ocr.postprocess.regions import Contour, Numbers, Regions
from ocr.postprocess.unclip import Points, Starts, border_distance, grow_polygons, unclip_distance

STAIR_STEP = 1.0
"""Distance in map pixels between a slanted straight border and its stair-shaped outline; simplification always tolerates it."""


def grown_outlines(
    regions: Regions, *, map_stride: int, shrink_ratio: float, config: PostprocessConfig
) -> tuple[Points, Starts]:
    """Returns clockwise outlines of N regions, simplified, resized to the region's area, then unclipped.

    Returns:
        Vertices (V, 2) in indices of the map, and where each region's start, (N + 1,). Regions that are too thin have none.
    """
    _, lengths = _measure(*_flat(regions.contours))
    tolerances = np.maximum(STAIR_STEP, config.polygon_tolerance * 2 * regions.areas / np.maximum(lengths, 1.0))
    simplified = [
        cv2.approxPolyDP(contour, tolerance, True)
        for contour, tolerance in zip(regions.contours, tolerances.tolist(), strict=True)
    ]
    vertices, starts = _flat(simplified)
    area, perimeter = _measure(vertices, starts)
    border = _borders(area, perimeter, regions.areas)
    grown_area, grown_perimeter = area + perimeter * border + 4 * border**2, perimeter + 8 * border
    distances = border + unclip_distance(
        grown_area, grown_perimeter, map_stride=map_stride, shrink_ratio=shrink_ratio, config=config
    )
    is_wide = (np.diff(starts) >= 4) & (area > 0)
    return grow_polygons(vertices, starts, np.where(is_wide, distances, np.nan))


def _flat(contours: list[Contour]) -> tuple[npt.NDArray[np.int32], Starts]:
    vertices = np.concatenate([np.zeros((0, 1, 2), np.int32), *contours])[:, 0]
    return vertices, np.cumsum([0, *map(len, contours)])


@compiled
def _measure(vertices: npt.NDArray[np.int32], starts: Starts) -> tuple[Numbers, Numbers]:
    """Returns areas and perimeters of closed contours, (N,) each, with the edges' lengths in single precision as in OpenCV."""
    areas, perimeters = np.zeros(len(starts) - 1), np.zeros(len(starts) - 1)
    for index in range(len(starts) - 1):
        previous = starts[index + 1] - 1
        for vertex in range(starts[index], starts[index + 1]):
            x, y = float(vertices[previous, 0]), float(vertices[previous, 1])
            next_x, next_y = float(vertices[vertex, 0]), float(vertices[vertex, 1])
            areas[index] += x * next_y - y * next_x
            dx, dy = np.float32(next_x - x), np.float32(next_y - y)
            perimeters[index] += np.sqrt(dx * dx + dy * dy)
            previous = vertex
        areas[index] = abs(areas[index]) / 2
    return areas, perimeters


@compiled
def _borders(areas: Numbers, perimeters: Numbers, wanted_areas: Numbers) -> Numbers:
    borders = np.empty(len(areas))
    for index in range(len(areas)):
        borders[index] = border_distance(areas[index], perimeters[index], wanted_areas[index])
    return borders
