"""Measures polygons before they are drawn: their role in the maps, their shrink distance and their window.

This happens on the host, in float64, for a whole batch at once, because sizes on the device depend on it.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ocr.polygons import PolygonBatch
from ocr.targets.config import TargetConfig

TEXT, DONT_CARE, NOTHING = 0, 1, 2
LEAST_AREA = 1e-6
"""Smallest area in square pixels; a polygon with less is a line or a point."""
SHORTEST_EDGE = 1e-6
"""In pixels. A shorter edge is treated as a point, since dividing by its squared length would overflow float32."""


@dataclass(frozen=True)
class Outlines:
    """Measures of the P polygons of a batch, in its order."""

    part: npt.NDArray[np.uint8]
    """(P,) TEXT: drawn; DONT_CARE (ignored or too small): masked out; NOTHING (no area, or not finite): skipped."""
    distance: npt.NDArray[np.float64]
    """(P,) shrink distance D and width of the threshold band, in input pixels; 0 unless TEXT."""
    windows: npt.NDArray[np.int64]
    """(P, 4) rows first:last and columns first:last of the map pixels that the polygon can change; empty if it is outside."""


def measure_outlines(polygons_input: PolygonBatch, size: tuple[int, int], config: TargetConfig) -> Outlines:
    """Returns role, shrink distance and window of each polygon.

    Args:
        polygons_input: polygons in the input frame, vertices in either direction, inside or outside the image.
        size: (H, W) of the input.
    """
    area, perimeter = _area_and_perimeter(polygons_input)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        distance = area * (1 - config.shrink_ratio**2) / perimeter
        is_too_small = _short_side(area, perimeter) < config.min_side
    part = np.where(polygons_input.ignore | is_too_small, DONT_CARE, TEXT).astype(np.uint8)
    part[~(np.isfinite(distance) & (area >= LEAST_AREA))] = NOTHING
    distance = np.where(part == TEXT, distance, 0.0)
    return Outlines(part, distance, _windows(polygons_input, part, distance, size, config.map_stride))


def _area_and_perimeter(polygons: PolygonBatch) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Returns (P,) areas and (P,) perimeters, for vertices in either direction."""
    num_polygons, polygon_of_vertex = polygons.num_polygons, polygons.polygon_of_vertex
    # Relative to the polygon's first vertex, because products of large coordinates would cancel badly.
    first_vertex = polygons.vertex_starts[:-1][polygon_of_vertex]
    with np.errstate(invalid="ignore", over="ignore"):
        start = polygons.vertices.astype(np.float64) - polygons.vertices[first_vertex]
        end = start[next_vertices(polygons)]
        cross = start[:, 0] * end[:, 1] - start[:, 1] * end[:, 0]
        length = np.hypot(*(end - start).T)
    area = np.abs(np.bincount(polygon_of_vertex, cross, num_polygons)) / 2
    perimeter = np.bincount(polygon_of_vertex, length, num_polygons)
    return area, perimeter.astype(np.float64)


def next_vertices(polygons: PolygonBatch) -> npt.NDArray[np.int64]:
    """Returns (V,), the index of the vertex after each vertex; the last of a polygon is followed by its first."""
    following = np.arange(1, len(polygons.vertices) + 1)
    counts = np.diff(polygons.vertex_starts)
    last_vertices = polygons.vertex_starts[1:][counts > 0] - 1
    following[last_vertices] = polygons.vertex_starts[:-1][counts > 0]
    return following


def _short_side(area: npt.NDArray[np.float64], perimeter: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Returns the shorter side of the rectangle with area A and perimeter L: the smaller root of h (L / 2 - h) = A.

    For shapes rounder than any rectangle (L^2 < 16 A) it is the side of the square with that perimeter.
    """
    half = perimeter / 2
    return (half - np.sqrt(np.maximum(half**2 - 4 * area, 0))) / 2


def _windows(
    polygons: PolygonBatch,
    part: npt.NDArray[np.uint8],
    distance: npt.NDArray[np.float64],
    size: tuple[int, int],
    stride: int,
) -> npt.NDArray[np.int64]:
    """Returns (P, 4), the map pixels with centres in the bounding box widened by the distance, clipped to the map."""
    low = np.full((len(part), 2), np.inf)
    high = np.full((len(part), 2), -np.inf)
    np.fmin.at(low, polygons.polygon_of_vertex, polygons.vertices)
    np.fmax.at(high, polygons.polygon_of_vertex, polygons.vertices)
    limits = np.array([size[1] // stride, size[0] // stride])
    # Pixel i has its centre at (i + 0.5) * stride. Clipping comes before the conversion, since large coordinates overflow integers.
    first = np.clip(np.ceil((low - distance[:, None]) / stride - 0.5), 0, limits)
    last = np.clip(np.floor((high + distance[:, None]) / stride - 0.5) + 1, first, limits)
    windows = np.stack([first[:, 1], last[:, 1], first[:, 0], last[:, 0]], axis=1)
    windows[part == NOTHING] = 0
    return windows.astype(np.int64)
