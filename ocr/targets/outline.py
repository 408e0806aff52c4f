"""Measures polygons before they are drawn: their role in the maps, shrink distance, window and weight.

This happens on the host, in float64, in one compiled pass for a whole batch, because sizes on the device depend on it.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dali_pipelines.compiled import compiled
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

    role: npt.NDArray[np.uint8]
    """(P,) TEXT: drawn; DONT_CARE (ignored or too small): masked out; NOTHING (no area, or not finite): skipped."""
    distance: npt.NDArray[np.float64]
    """(P,) shrink distance D and width of the threshold band, in input pixels; 0 unless TEXT."""
    windows: npt.NDArray[np.int64]
    """(P, 4) rows first:last and columns first:last of the map pixels that the polygon can change; empty if it is outside."""
    weight: npt.NDArray[np.uint8]
    """(P,) value of the shrink mask in a text and its band, 1 to `TargetConfig.max_text_weight`."""
    packed: npt.NDArray[np.int32] | None = None
    """The polygons and these measures as the kernel of a GPU reads them (`packing.pack_polygons`); None: not packed."""


def measure_outlines(polygons_input: PolygonBatch, size: tuple[int, int], config: TargetConfig) -> Outlines:
    """Returns role, shrink distance, window and weight of each polygon.

    Args:
        polygons_input: polygons in the input frame, vertices in either direction, inside or outside the image.
        size: (H, W) of the input.
    """
    num_polygons = polygons_input.num_polygons
    role = np.empty(num_polygons, np.uint8)
    text_area, distance = np.empty((2, num_polygons))
    windows = np.empty((num_polygons, 4), np.int64)
    _measure_each(
        polygons_input.vertices,
        polygons_input.vertex_starts,
        polygons_input.ignore,
        1 - config.shrink_ratio**2,
        float(config.min_side),
        config.map_stride,
        size[0] // config.map_stride,
        size[1] // config.map_stride,
        role,
        text_area,
        distance,
        windows,
    )
    weight = np.ones(num_polygons, np.uint8)
    if config.max_text_weight > 1:
        _weigh_each(polygons_input.polygon_starts, text_area, config.max_text_weight, weight)
    return Outlines(role, distance, windows, weight)


def short_sides(polygons: PolygonBatch) -> npt.NDArray[np.float32]:
    """Returns the shorter side of each polygon, (P,) in the polygons' pixels, as `TargetConfig.min_side` compares it."""
    sides = np.empty(polygons.num_polygons, np.float32)
    _short_side_of_each(polygons.vertices, polygons.vertex_starts, sides)
    return sides


@compiled
def _short_side_of_each(
    vertices: npt.NDArray[np.float32], vertex_starts: npt.NDArray[np.int64], sides: npt.NDArray[np.float32]
) -> None:
    for p in range(len(sides)):
        area, perimeter = _area_and_perimeter(vertices[vertex_starts[p] : vertex_starts[p + 1]])
        sides[p] = _short_side(area, perimeter)


@compiled
def _measure_each(
    vertices: npt.NDArray[np.float32],
    vertex_starts: npt.NDArray[np.int64],
    ignore: npt.NDArray[np.bool_],
    shrink_factor: float,
    min_side: float,
    stride: int,
    num_rows: int,
    num_cols: int,
    role: npt.NDArray[np.uint8],
    text_area: npt.NDArray[np.float64],
    distance: npt.NDArray[np.float64],
    windows: npt.NDArray[np.int64],
) -> None:
    """Fills the last four arrays. `shrink_factor` is 1 - r^2 of D = A (1 - r^2) / L; the map has num_rows x num_cols pixels."""
    for p in range(len(role)):
        polygon = vertices[vertex_starts[p] : vertex_starts[p + 1]]
        area, perimeter = _area_and_perimeter(polygon)
        text_area[p] = 0.0
        width = area * shrink_factor / perimeter if perimeter > 0 else math.nan
        if not (math.isfinite(width) and area >= LEAST_AREA):
            role[p], distance[p], windows[p] = NOTHING, 0.0, 0
            continue
        is_text = not (ignore[p] or _short_side(area, perimeter) < min_side)
        role[p], distance[p] = TEXT if is_text else DONT_CARE, width if is_text else 0.0
        is_in_sight = bool(is_text)
        for axis, limit in ((1, num_rows), (0, num_cols)):
            low = high = np.float64(polygon[0, axis])
            for i in range(1, len(polygon)):
                low, high = min(low, np.float64(polygon[i, axis])), max(high, np.float64(polygon[i, axis]))
            # Pixel i has its centre at (i + 0.5) * stride. Clipping comes before the conversion, since large coordinates overflow
            # integers.
            first = min(max(np.ceil((low - distance[p]) / stride - 0.5), 0.0), float(limit))
            last = min(max(np.floor((high + distance[p]) / stride - 0.5) + 1.0, first), float(limit))
            windows[p, 2 - 2 * axis], windows[p, 3 - 2 * axis] = int(first), int(last)
            is_in_sight = is_in_sight and bool(low < limit * stride and high > 0)
        text_area[p] = area if is_in_sight else 0.0


@compiled
def _weigh_each(
    polygon_starts: npt.NDArray[np.int64],
    text_area: npt.NDArray[np.float64],
    max_weight: int,
    weight: npt.NDArray[np.uint8],
) -> None:
    """Raises the weight of texts that are smaller than the average text of their image.

    Args:
        text_area: (P,) area of the polygon in square pixels; 0 for polygons that are not text or are outside the input.
    """
    for image in range(len(polygon_starts) - 1):
        polygons = range(polygon_starts[image], polygon_starts[image + 1])
        total, num_texts = 0.0, 0
        for p in polygons:
            total += text_area[p]
            num_texts += text_area[p] > 0
        for p in polygons:
            if text_area[p] > 0:
                wanted = total / (num_texts * text_area[p])
                weight[p] = int(min(max(wanted + 0.5, 1.0), float(max_weight)))


@compiled
def _area_and_perimeter(polygon: npt.NDArray[np.float32]) -> tuple[float, float]:
    """Returns area and perimeter, for vertices in either direction."""
    doubled_area = perimeter = 0.0
    for i in range(len(polygon)):
        following = i + 1 if i + 1 < len(polygon) else 0
        # Relative to the first vertex, because products of large coordinates would cancel badly.
        x, y = (
            np.float64(polygon[i, 0]) - np.float64(polygon[0, 0]),
            np.float64(polygon[i, 1]) - np.float64(polygon[0, 1]),
        )
        next_x = np.float64(polygon[following, 0]) - np.float64(polygon[0, 0])
        next_y = np.float64(polygon[following, 1]) - np.float64(polygon[0, 1])
        doubled_area += x * next_y - y * next_x
        perimeter += math.hypot(next_x - x, next_y - y)
    return abs(doubled_area) / 2, perimeter


@compiled
def _short_side(area: float, perimeter: float) -> float:
    """Returns the shorter side of the rectangle with area A and perimeter L: the smaller root of h (L / 2 - h) = A.

    For shapes rounder than any rectangle (L^2 < 16 A) it is the side of the square with that perimeter.
    """
    half = perimeter / 2
    return (half - math.sqrt(max(half * half - 4 * area, 0.0))) / 2
