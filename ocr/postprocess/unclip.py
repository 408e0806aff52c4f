"""Unclips a shrunk text region: how far it has to grow, and the grown polygon.

A rectangle with area A and perimeter L, grown by d on every side, has area A + L d + 4 d^2 and perimeter L + 8 d. The functions
below assume this for every shape with mitred corners. They take one shape or arrays of shapes, with all lengths in one frame.
"""

from itertools import chain
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt
import pyclipper
import shapely

from dali_pipelines.compiled import compiled
from ocr.postprocess.config import PostprocessConfig

UnclipRatio = Literal["exact"] | float
Values = TypeVar("Values", float, npt.NDArray[np.float64])
Points = npt.NDArray[np.float64]
Starts = npt.NDArray[np.int64]
CLIPPER_UNITS = 1024
"""Integer units per pixel, for pyclipper."""
LEAST_BORDER, LARGEST_BORDER = -1.0, 0.5
"""Allowed distance in map pixels from the outermost pixel centres to the border: half a pixel in a crisp map, less in a soft
one."""


@compiled
def distance_to_area(area: Values, perimeter: Values, wanted_area: Values) -> Values:
    """Returns the distance d by which a shape has to grow (or shrink, if negative) to have the wanted area."""
    discriminant = perimeter * perimeter - 16 * (area - wanted_area)
    return (np.sqrt(np.maximum(discriminant, 0.0)) - perimeter) / 8


@compiled
def border_distance(area: float, perimeter: float, wanted_area: float) -> float:
    """Returns the distance from a region's outermost pixel centres to the border that gives its shape the wanted area."""
    return min(max(distance_to_area(area, perimeter, wanted_area), LEAST_BORDER), LARGEST_BORDER)


def unshrink_distance(area: Values, perimeter: Values, shrink_ratio: float) -> Values:
    """Returns the distance D by which text was shrunk, from the area A' and perimeter L' of the shrunk region.

    Targets are shrunk by D = k A / L with k = 1 - r^2 (DBNet, arXiv 1911.08947). With A = A' + L' D + 4 D^2 and
    L = L' + 8 D this is (8 - 4 k) D^2 + (1 - k) L' D - k A' = 0, exact for rectangles. The paper's unclip distance,
    1.5 A' / L', restores only 0.4 of the height of a long line shrunk with r = 0.4.
    """
    k = 1 - shrink_ratio**2
    a, b, c = 8 - 4 * k, (1 - k) * perimeter, -k * area
    return (np.sqrt(b * b - 4 * a * c) - b) / (2 * a)


def unclip_distance(
    area: Values, perimeter: Values, *, map_stride: int, shrink_ratio: float, config: PostprocessConfig
) -> Values:
    """Returns the distance in map pixels to grow a shrunk region by: `unclip_offset`, and what `unclip_ratio` says."""
    offset = config.unclip_offset / map_stride
    if config.unclip_ratio == "exact":
        return unshrink_distance(area, perimeter, shrink_ratio) + offset
    return area * config.unclip_ratio / perimeter + offset


def grow_polygons(
    vertices: npt.NDArray[np.generic], starts: Starts, distances: npt.NDArray[np.float64]
) -> tuple[Points, Starts]:
    """Returns N polygons with their borders moved outwards and their corners mitred, clockwise in the image, where y points down.

    A polygon that would touch itself becomes one without vertices, and so does one whose distance is NaN. If the grown shape has
    several pieces or holes, the largest outline is taken.

    Args:
        vertices: (V, 2) of all polygons.
        starts: (N + 1,); the vertices of polygon n are vertices[starts[n] : starts[n + 1]].
        distances: (N,) in pixels.

    Returns:
        Vertices and starts of the grown polygons, in the same form; at least 4 vertices each, or none.
    """
    paths = np.rint(vertices * CLIPPER_UNITS).tolist()
    offset = pyclipper.PyclipperOffset()
    outlines: list[list[list[int]]] = []
    ends = starts[1:].tolist()
    for start, end, distance in zip(starts.tolist(), ends, (distances * CLIPPER_UNITS).tolist(), strict=False):
        pieces: list[list[list[int]]] = []
        if distance == distance:  # not NaN
            offset.Clear()
            offset.AddPath(paths[start:end], pyclipper.JT_MITER, pyclipper.ET_CLOSEDPOLYGON)
            pieces = offset.Execute(distance)
        # Outlines have a positive area, holes a negative one.
        outlines.append(pieces[0] if len(pieces) == 1 else max(pieces, key=pyclipper.Area, default=[]))
    coordinates = chain.from_iterable(chain.from_iterable(outlines))
    grown = np.fromiter(coordinates, np.float64).reshape(-1, 2)
    return _valid_polygons(grown, np.array([len(outline) for outline in outlines], np.int64))


def _valid_polygons(vertices: Points, counts: Starts) -> tuple[Points, Starts]:
    """Returns the polygons in pixels, without the vertices of those that have fewer than 4 or touch themselves."""
    is_valid = counts >= 4
    has_four = np.repeat(is_valid, counts)
    rings = shapely.linearrings(vertices[has_four], indices=np.repeat(np.arange(is_valid.sum()), counts[is_valid]))
    is_valid[is_valid] = shapely.is_valid(shapely.polygons(rings))
    return vertices[np.repeat(is_valid, counts)] / CLIPPER_UNITS, np.cumsum(np.concatenate([[0], counts * is_valid]))
