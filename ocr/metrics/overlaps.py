"""Finds which regions of two sets overlap, and by how much, in compiled code that releases the GIL.

Two convex polygons are clipped against each other. The result may differ from shapely's in the last digits, so whoever compares it
with a threshold asks shapely about pairs close to it (`exact_overlaps`), and about polygons that are not convex.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import shapely

from dali_pipelines.compiled import compiled
from ocr.metrics.regions import Bools, FlatPolygons, Floats, Regions

Indices = npt.NDArray[np.int64]

PRECISION = 1e-6
"""Relative error of an overlap of convex polygons, at most; it is about 1e-12 for words in an image."""
LEAST_AREA = 1e-2
"""Smallest area in square pixels of a polygon that counts as convex; thinner ones are left to shapely."""
LEAST_TURN = 1e-6
"""Smallest sine of the turn at a vertex of a convex polygon."""


class Shapes(NamedTuple):
    """P polygons with what a quick comparison needs."""

    vertices: Floats
    """(V, 2), (x, y)."""
    starts: Indices
    """(P + 1,); the vertices of polygon p are vertices[starts[p] : starts[p + 1]]."""
    boxes: Floats
    """(P, 4) bounding boxes x0, y0, x1, y1."""
    areas: Floats
    """(P,) area, if the polygon is convex."""
    is_convex: Bools
    """(P,) convex, clockwise or not, with an area; then overlaps can be computed without shapely."""

    @classmethod
    def from_flat(cls, polygons: FlatPolygons) -> "Shapes":
        """Measures the polygons."""
        starts = np.concatenate([[0], np.cumsum(polygons.num_vertices)])
        return cls(polygons.vertices, starts, *_measure(polygons.vertices, starts))

    @property
    def num_polygons(self) -> int:
        """Number of polygons P."""
        return len(self.areas)


class Overlaps(NamedTuple):
    """Pairs of regions from two sets whose boxes overlap, ordered by the region of the first set, then of the second."""

    first: Indices
    second: Indices
    common: Floats
    """Common area; NaN if a region is not convex."""
    first_area: Floats
    second_area: Floats


def overlaps(first: Shapes, second: Shapes) -> Overlaps:
    """Returns the overlaps of the regions, with those of convex polygons computed."""
    by_top, begin, end = near_boxes(first.boxes, second.boxes)
    rows, columns = _near_pairs(first.boxes, second.boxes, by_top, begin, end)
    common = common_areas(first, second, rows, columns)
    return Overlaps(rows, columns, common, first.areas[rows], second.areas[columns])


def near_boxes(first: Floats, second: Floats) -> tuple[Indices, Indices, Indices]:
    """Returns where to look for the second boxes that touch each of the first ones.

    Args:
        first, second: (F, 4) and (S, 4) bounding boxes.

    Returns:
        (S,) indices of the second boxes by their upper edges, and two arrays (F,): the boxes by_top[begin[f] : end[f]] include all
        that touch box f.
    """
    by_top = np.argsort(second[:, 1])
    tops = second[by_top, 1]
    tallest = (second[:, 3] - second[:, 1]).max(initial=0.0)
    return (
        by_top,
        np.searchsorted(tops, first[:, 1] - tallest, side="left"),
        np.searchsorted(tops, first[:, 3], side="right"),
    )


def exact_overlaps(found: Overlaps, first: Shapes, second: Shapes, is_unsure: Bools) -> Overlaps:
    """Returns the overlaps, with the areas of the pairs flagged in (K,) computed by shapely."""
    places = np.flatnonzero(is_unsure)
    if len(places) == 0:
        return found
    rows, columns = regions_of(first, found.first[places]), regions_of(second, found.second[places])
    common, first_area, second_area = found.common.copy(), found.first_area.copy(), found.second_area.copy()
    common[places] = shapely.area(shapely.intersection(rows.geometries, columns.geometries))
    first_area[places], second_area[places] = rows.areas, columns.areas
    return Overlaps(found.first, found.second, common, first_area, second_area)


def regions_of(shapes: Shapes, chosen: Indices) -> Regions:
    """Returns the polygons of the indices as shapely's regions."""
    counts = np.diff(shapes.starts)[chosen]
    inside = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return Regions.from_flat(FlatPolygons(shapes.vertices[np.repeat(shapes.starts[chosen], counts) + inside], counts))


@compiled
def _measure(vertices: Floats, starts: Indices) -> tuple[Floats, Floats, Bools]:
    """Returns boxes, areas and convexity, as in `Shapes`."""
    number = len(starts) - 1
    boxes, areas, is_convex = np.empty((number, 4)), np.zeros(number), np.zeros(number, np.bool_)
    for index in range(number):
        polygon = vertices[starts[index] : starts[index + 1]]
        count = len(polygon)
        boxes[index] = np.inf, np.inf, -np.inf, -np.inf
        num_left, num_right, num_reversals = 0, 0, 0
        twice = 0.0
        for place in range(count):
            x, y = polygon[place]
            boxes[index, 0], boxes[index, 1] = min(boxes[index, 0], x), min(boxes[index, 1], y)
            boxes[index, 2], boxes[index, 3] = max(boxes[index, 2], x), max(boxes[index, 3], y)
            ax, ay = x - polygon[place - 1, 0], y - polygon[place - 1, 1]
            after = polygon[(place + 1) % count]
            bx, by = after[0] - x, after[1] - y
            turn = ax * by - ay * bx
            least = LEAST_TURN * np.sqrt((ax * ax + ay * ay) * (bx * bx + by * by))
            num_right += turn > least
            num_left += turn < -least
            # A convex polygon goes around once, so it changes from left to right and back once. An edge may be vertical.
            num_reversals += (ax > 0 or (ax == 0 and ay > 0)) != (bx > 0 or (bx == 0 and by > 0))
            twice += (x - polygon[0, 0]) * (after[1] - polygon[0, 1]) - (y - polygon[0, 1]) * (after[0] - polygon[0, 0])
        areas[index] = abs(twice) / 2
        is_convex[index] = max(num_left, num_right) == count and num_reversals == 2 and areas[index] >= LEAST_AREA
    return boxes, areas, is_convex


@compiled
def _near_pairs(
    first: Floats, second: Floats, by_top: Indices, begin: Indices, end: Indices
) -> tuple[Indices, Indices]:
    """Returns the pairs of boxes with a common area, in order.

    Args:
        first, second: (F, 4) and (S, 4) boxes.
        by_top, begin, end: from `near_boxes`.
    """
    rows, columns = np.empty(256, np.int64), np.empty(256, np.int64)
    number = 0
    for row in range(len(first)):
        start_of_row = number
        for column in by_top[begin[row] : end[row]]:
            width = min(first[row, 2], second[column, 2]) - max(first[row, 0], second[column, 0])
            height = min(first[row, 3], second[column, 3]) - max(first[row, 1], second[column, 1])
            if not (width > 0 and height > 0):
                continue
            if number == len(rows):
                rows, columns = np.append(rows, rows), np.append(columns, columns)
            place = number
            while place > start_of_row and columns[place - 1] > column:
                columns[place] = columns[place - 1]
                place -= 1
            rows[number], columns[place] = row, column
            number += 1
    return rows[:number].copy(), columns[:number].copy()


@compiled
def common_areas(first: Shapes, second: Shapes, rows: Indices, columns: Indices) -> Floats:
    """Returns (K,), the common area of first[rows[k]] and second[columns[k]]; NaN if one of them is not convex."""
    common = np.full(len(rows), np.nan)
    for pair in range(len(rows)):
        row, column = rows[pair], columns[pair]
        if first.is_convex[row] and second.is_convex[column]:
            subject = first.vertices[first.starts[row] : first.starts[row + 1]]
            window = second.vertices[second.starts[column] : second.starts[column + 1]]
            common[pair] = _common_area(subject, window)
    return common


@compiled
def _common_area(subject: Floats, window: Floats) -> float:
    """Returns the common area of two convex polygons: the subject is cut along each edge of the window in turn."""
    origin_x, origin_y = subject[0]
    longest = len(subject) + len(window) + 2
    corners, cut = np.empty((longest, 2)), np.empty((longest, 2))
    count = len(subject)
    for place in range(count):
        corners[place, 0], corners[place, 1] = subject[place, 0] - origin_x, subject[place, 1] - origin_y
    side = 1.0 if _doubled_area(window, len(window)) > 0 else -1.0
    for edge in range(len(window)):
        x, y = window[edge - 1, 0] - origin_x, window[edge - 1, 1] - origin_y
        dx, dy = side * (window[edge, 0] - window[edge - 1, 0]), side * (window[edge, 1] - window[edge - 1, 1])
        number = 0
        for place in range(count):
            before, here = corners[place - 1 if place > 0 else count - 1], corners[place]
            depth_before = dx * (before[1] - y) - dy * (before[0] - x)
            depth = dx * (here[1] - y) - dy * (here[0] - x)
            if number + 2 > longest:
                return np.nan  # rounding errors made more corners than a convex polygon can have
            if (depth_before > 0 and depth < 0) or (depth_before < 0 and depth > 0):
                part = depth_before / (depth_before - depth)
                cut[number, 0] = before[0] + part * (here[0] - before[0])
                cut[number, 1] = before[1] + part * (here[1] - before[1])
                number += 1
            if depth >= 0:
                cut[number, 0], cut[number, 1] = here[0], here[1]
                number += 1
        corners, cut = cut, corners
        count = number
    return abs(_doubled_area(corners, count)) / 2


@compiled
def _doubled_area(polygon: Floats, count: int) -> float:
    """Returns twice the signed area of the first `count` vertices."""
    total = 0.0
    for place in range(2, count):
        ax, ay = polygon[place - 1, 0] - polygon[0, 0], polygon[place - 1, 1] - polygon[0, 1]
        bx, by = polygon[place, 0] - polygon[0, 0], polygon[place, 1] - polygon[0, 1]
        total += ax * by - ay * bx
    return total
