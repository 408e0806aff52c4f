"""Draws target maps slowly and exactly: the reference of the tests.

It shares no formula with the fast paths. Clipper shrinks and grows polygons with round joins, at 1/1000 pixel. They are filled at
exact pixel centres (cv2.fillPoly would also fill pixels that the border only touches). Distances are computed from every pixel to
every edge in float64.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyclipper
import torch

from ocr.polygons import PolygonBatch
from ocr.targets.config import TargetConfig
from ocr.targets.outline import LEAST_AREA
from ocr.targets.target_maps import TargetMaps

UNITS_PER_PIXEL = 1000
ARC_TOLERANCE = 0.25
"""Largest distance between a round join and the circle, in units."""

Float64 = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]


def make_targets_reference(polygons_input: PolygonBatch, size: tuple[int, int], config: TargetConfig) -> TargetMaps:
    """Returns the maps of `ocr.targets.maps.make_targets`, on the CPU, drawn one polygon at a time."""
    images = [
        _draw_image(polygons_input.polygons_of(image), polygons_input.ignore_of(image), size, config)
        for image in range(len(polygons_input))
    ]
    shape = (0, 4, size[0] // config.map_stride, size[1] // config.map_stride)
    maps = np.stack(images) if images else np.zeros(shape, np.float32)
    return TargetMaps(*torch.from_numpy(np.ascontiguousarray(maps.transpose(1, 0, 2, 3))))


def _draw_image(
    polygons_input: Sequence[npt.NDArray[np.float32]], ignore: Bool, size: tuple[int, int], config: TargetConfig
) -> npt.NDArray[np.float32]:
    """Returns (4, Hm, Wm), the maps in the order of `TargetMaps`."""
    map_size = size[0] // config.map_stride, size[1] // config.map_stride
    core, masked_out, text = np.zeros((3, *map_size), np.bool_)
    text_weight = np.ones(map_size)
    areas = [
        _area(polygon.astype(np.float64))
        for polygon, is_ignored in zip(polygons_input, ignore, strict=True)
        if not is_ignored and _is_text(polygon, config) and _is_in_sight(polygon, size)
    ]
    thresh_map = np.full(map_size, config.thresh_min)
    for vertices, is_ignored in zip(polygons_input, ignore, strict=True):
        polygon = vertices.astype(np.float64)
        if not np.isfinite(polygon).all() or _area(polygon) < LEAST_AREA:
            continue
        area, perimeter = _area(polygon), np.linalg.norm(polygon - np.roll(polygon, -1, axis=0), axis=1).sum()
        distance = area * (1 - config.shrink_ratio**2) / perimeter
        window, x, y = _window(polygon, distance, map_size, config.map_stride)
        if is_ignored or not _is_text(vertices, config):
            masked_out[window] |= _fill([polygon], x, y)
            continue
        wanted = math.floor(np.mean(areas) / area + 0.5) if _is_in_sight(vertices, size) else 1
        weight = min(max(wanted, 1), config.max_text_weight)
        core[window] |= _fill(_offset(polygon, -distance), x, y)
        with_band = _fill(_offset(polygon, distance), x, y)
        text[window] |= with_band
        text_weight[window] = np.maximum(text_weight[window], weight * with_band)
        strength = np.maximum(0, 1 - _distance_to_border(polygon, x, y) / distance)
        thresh = config.thresh_min + (config.thresh_max - config.thresh_min) * strength
        thresh_map[window] = np.maximum(thresh_map[window], thresh)
    shrink_mask = np.where(masked_out & ~core, 0, text_weight)
    return np.stack([core, shrink_mask, thresh_map, text]).astype(np.float32)


def _is_text(polygon: npt.NDArray[np.float32], config: TargetConfig) -> bool:
    """Returns whether the polygon has an area and is not too small."""
    vertices = polygon.astype(np.float64)
    if not np.isfinite(vertices).all() or _area(vertices) < LEAST_AREA:
        return False
    perimeter = np.linalg.norm(vertices - np.roll(vertices, -1, axis=0), axis=1).sum()
    return _short_side(_area(vertices), perimeter) >= config.min_side


def _is_in_sight(polygon: npt.NDArray[np.float32], size: tuple[int, int]) -> bool:
    """Returns whether the polygon's bounding box meets the input."""
    return bool((polygon.max(axis=0) > 0).all() and (polygon.min(axis=0) < size[::-1]).all())


def _area(polygon: Float64) -> float:
    x, y = (polygon - polygon[:1]).T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


def _short_side(area: float, perimeter: float) -> float:
    """Returns the shorter side of the rectangle with this area and perimeter."""
    sides = np.roots([1, -perimeter / 2, area])
    return float(sides.real.min())


def _window(
    polygon: Float64, distance: float, map_size: tuple[int, int], stride: int
) -> tuple[tuple[slice, slice], Float64, Float64]:
    """Returns the part of the map near the polygon, and the x of its columns and the y of its rows in input pixels."""
    low = np.floor((polygon.min(axis=0) - distance) / stride)
    high = np.ceil((polygon.max(axis=0) + distance) / stride)
    (col, row), (col_end, row_end) = np.clip([low, high], 0, map_size[::-1]).astype(int).tolist()
    x, y = (np.arange(col, col_end) + 0.5) * stride, (np.arange(row, row_end) + 0.5) * stride
    return (slice(row, row_end), slice(col, col_end)), x, y


def _offset(polygon: Float64, distance: float) -> list[Float64]:
    """Returns the polygon with its border moved outwards by `distance`, or inwards if negative; pieces and holes are separate."""
    offset = pyclipper.PyclipperOffset(2.0, ARC_TOLERANCE)
    units = np.rint(polygon * UNITS_PER_PIXEL).astype(np.int64).tolist()
    offset.AddPath(units, pyclipper.JT_ROUND, pyclipper.ET_CLOSEDPOLYGON)
    return [np.array(path) / UNITS_PER_PIXEL for path in offset.Execute(distance * UNITS_PER_PIXEL)]


def _fill(paths: list[Float64], x: Float64, y: Float64) -> Bool:
    """Returns (len(y), len(x)), whether (x, y) is inside: the border crosses its row an odd number of times at or left of x."""
    if not paths:
        return np.zeros((len(y), len(x)), np.bool_)
    start = np.concatenate(paths)
    end = np.concatenate([np.roll(path, -1, axis=0) for path in paths])
    row, edge = np.nonzero((start[:, 1] <= y[:, None]) != (end[:, 1] <= y[:, None]))
    t = (y[row] - start[edge, 1]) / (end[edge, 1] - start[edge, 1])
    crossing = start[edge, 0] + t * (end[edge, 0] - start[edge, 0])
    turns = np.zeros((len(y), len(x) + 1), np.int64)
    np.add.at(turns, (row, np.searchsorted(x, crossing)), 1)
    return turns.cumsum(axis=1)[:, :-1] % 2 == 1


def _distance_to_border(polygon: Float64, x: Float64, y: Float64) -> Float64:
    """Returns (len(y), len(x)), the distance from (x, y) to the closest edge, its ends included."""
    nearest = np.full((len(y), len(x)), np.inf)
    for start, end in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        way = end - start
        from_x, from_y = x - start[0], (y - start[1])[:, None]
        t = np.clip((from_x * way[0] + from_y * way[1]) / max(way @ way, np.finfo(float).tiny), 0, 1)
        nearest = np.minimum(nearest, np.hypot(from_x - t * way[0], from_y - t * way[1]))
    return nearest
