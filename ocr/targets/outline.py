"""What is known of polygons before a pixel is drawn: their part in the maps, how far they shrink, where they can show.

All on the host, in float64, for a whole batch at once: the sizes of what a device allocates follow from it.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ocr.polygons import PolygonBatch
from ocr.targets.config import TargetConfig

TEXT, DONT_CARE, NOTHING = 0, 1, 2
LEAST_AREA = 1e-6
"""Square pixels. Less is a line or a point with rounded corners: no area."""
SHORTEST_EDGE = 1e-6
"""Pixels. A shorter edge is a point: what is divided by its length would overflow float32."""


@dataclass(frozen=True)
class Outlines:
    """One entry a polygon, P in all, in the order of the batch."""

    part: npt.NDArray[np.uint8]
    """(P,) TEXT: drawn; DONT_CARE (ignored or too small): masked out; NOTHING: without area, or not finite."""
    distance: npt.NDArray[np.float64]
    """(P,) D, by which the polygon shrinks and its threshold band reaches, in input pixels; 0 unless TEXT."""
    windows: npt.NDArray[np.int64]
    """(P, 4) rows first:last and columns first:last, all of the map that the polygon can change; none where outside."""


def measure_outlines(polygons_input: PolygonBatch, size: tuple[int, int], config: TargetConfig) -> Outlines:
    """Part, distance and window of each polygon.

    Args:
        polygons_input: polygons in the input frame, vertices in either direction, inside or outside of the image.
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
    """(P,) each, whatever the direction of the vertices."""
    num_polygons, polygon_of_vertex = polygons.num_polygons, polygons.polygon_of_vertex
    # Relative to the polygon's first vertex: the products of far-away coordinates would cancel badly.
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
    """(V,) index of the vertex after each vertex; after the last of a polygon comes its first."""
    following = np.arange(1, len(polygons.vertices) + 1)
    counts = np.diff(polygons.vertex_starts)
    last_vertices = polygons.vertex_starts[1:][counts > 0] - 1
    following[last_vertices] = polygons.vertex_starts[:-1][counts > 0]
    return following


def _short_side(area: npt.NDArray[np.float64], perimeter: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Short side of the rectangle with this area A and perimeter L: the smaller root of h (L / 2 - h) = A.

    Rounder than any rectangle (L^2 < 16 A): the side of the square with that perimeter.
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
    """(P, 4) the map pixels whose centres lie in the bounding box widened by the distance, clipped to the map."""
    low = np.full((len(part), 2), np.inf)
    high = np.full((len(part), 2), -np.inf)
    np.fmin.at(low, polygons.polygon_of_vertex, polygons.vertices)
    np.fmax.at(high, polygons.polygon_of_vertex, polygons.vertices)
    limits = np.array([size[1] // stride, size[0] // stride])
    # Pixel i has its centre at (i + 0.5) * stride. Clipped before the conversion: far coordinates overflow integers.
    first = np.clip(np.ceil((low - distance[:, None]) / stride - 0.5), 0, limits)
    last = np.clip(np.floor((high + distance[:, None]) / stride - 0.5) + 1, first, limits)
    windows = np.stack([first[:, 1], last[:, 1], first[:, 0], last[:, 0]], axis=1)
    windows[part == NOTHING] = 0
    return windows.astype(np.int64)
