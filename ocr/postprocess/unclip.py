"""Unclips a shrunk text region: how far it has to grow, and the grown polygon.

A rectangle with area A and perimeter L, grown by d on every side, has area A + L d + 4 d^2 and perimeter L + 8 d. The functions
below assume this for every shape with mitred corners. They take one shape or arrays of shapes, with all lengths in one frame.
"""

from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt
import pyclipper
import shapely

UnclipRatio = Literal["exact"] | float
Numbers = TypeVar("Numbers", float, npt.NDArray[np.float64])
CLIPPER_UNITS = 1024
"""Integer units per pixel, for pyclipper."""


def distance_to_area(area: Numbers, perimeter: Numbers, wanted_area: Numbers) -> Numbers:
    """Returns the distance d by which a shape has to grow (or shrink, if negative) to have the wanted area."""
    discriminant = perimeter**2 - 16 * (area - wanted_area)
    return (np.sqrt(np.maximum(discriminant, 0.0)) - perimeter) / 8


def unshrink_distance(area: Numbers, perimeter: Numbers, shrink_ratio: float) -> Numbers:
    """Returns the distance D by which text was shrunk, from the area A' and perimeter L' of the shrunk region.

    Targets are shrunk by D = k A / L with k = 1 - r^2 (DBNet, arXiv 1911.08947). With A = A' + L' D + 4 D^2 and
    L = L' + 8 D this is (8 - 4 k) D^2 + (1 - k) L' D - k A' = 0, exact for rectangles. The paper's unclip distance,
    1.5 A' / L', restores only 0.4 of the height of a long line shrunk with r = 0.4.
    """
    k = 1 - shrink_ratio**2
    a, b, c = 8 - 4 * k, (1 - k) * perimeter, -k * area
    return (np.sqrt(b * b - 4 * a * c) - b) / (2 * a)


def unclip_distance(area: Numbers, perimeter: Numbers, shrink_ratio: float, unclip_ratio: UnclipRatio) -> Numbers:
    """Returns the distance to grow a shrunk region by: the exact inverse of the shrinking, or the paper's if a ratio is given."""
    if unclip_ratio == "exact":
        return unshrink_distance(area, perimeter, shrink_ratio)
    return area * unclip_ratio / perimeter


def grow_polygon(polygon: npt.NDArray[np.generic], distance: float) -> npt.NDArray[np.float64] | None:
    """Returns the polygon (n, 2) with its border moved outwards and its corners mitred; None if the result touches itself.

    The result is (m, 2), m >= 4, clockwise in the image, where y points down. If the grown shape has several pieces or holes, the
    largest outline is returned.
    """
    offset = pyclipper.PyclipperOffset()
    offset.AddPath(np.rint(polygon * CLIPPER_UNITS).tolist(), pyclipper.JT_MITER, pyclipper.ET_CLOSEDPOLYGON)
    pieces = offset.Execute(distance * CLIPPER_UNITS)
    # Outlines have a positive area, holes a negative one.
    outline = np.array(max(pieces, key=pyclipper.Area, default=[]), np.float64)
    if len(outline) < 4 or not shapely.is_valid(shapely.polygons(outline)):
        return None
    return outline / CLIPPER_UNITS
