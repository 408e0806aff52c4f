"""Regions of one image as geometries with their boxes and areas, and where the regions of two sets overlap.

Almost all the time goes into the intersections, which shapely computes without holding Python's lock: `box_overlap`
tells beforehand which of them can matter.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import shapely

Polygons = Sequence[npt.NDArray[np.floating]]
"""Of one image: (n, 2) each, (x, y), n >= 3."""
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.integer]
Bools = npt.NDArray[np.bool_]
Geometries = npt.NDArray[np.object_]


class FlatPolygons(NamedTuple):
    """P polygons with V vertices in all, one after the other."""

    vertices: Floats
    """(V, 2), (x, y)."""
    num_vertices: Ints
    """(P,)"""


@dataclass(frozen=True)
class Regions:
    """P regions. Immutable: can be kept and used from any thread."""

    geometries: Geometries
    """(P,) shapely geometries."""
    boxes: Floats
    """(P, 4) the smallest and largest x and y: x0, y0, x1, y1; NaN for a region without area."""
    areas: Floats
    """(P,)"""

    @classmethod
    def from_flat(cls, polygons: FlatPolygons) -> "Regions":
        """One region a polygon; of a polygon that crosses itself, what it encloses."""
        num_polygons = len(polygons.num_vertices)
        if num_polygons == 0:
            return cls.from_geometries(np.empty(0, np.object_))
        rings = shapely.linearrings(
            polygons.vertices, indices=np.repeat(np.arange(num_polygons), polygons.num_vertices)
        )
        geometries = shapely.polygons(rings)
        crossing = ~shapely.is_valid(geometries)
        if crossing.any():
            geometries[crossing] = shapely.make_valid(geometries[crossing], method="structure", keep_collapsed=False)
        return cls.from_geometries(geometries)

    @classmethod
    def from_geometries(cls, geometries: Geometries) -> "Regions":
        return cls(geometries, shapely.bounds(geometries), shapely.area(geometries))

    def __len__(self) -> int:
        return len(self.geometries)


def flat_polygons(polygons: Polygons, what: str) -> FlatPolygons:
    """The polygons as one array, checked.

    Args:
        what: "target" or "prediction", for the messages.

    Raises:
        ValueError: a polygon has fewer than 3 points or a coordinate that is not finite.
    """
    shapes = [np.shape(polygon) for polygon in polygons]
    for index, shape in enumerate(shapes):
        if len(shape) != 2 or shape[0] < 3 or shape[1] != 2:
            raise ValueError(f"{what} {index} has shape {shape}; (n, 2) with n >= 3 is needed")
    if not shapes:
        return FlatPolygons(np.zeros((0, 2)), np.zeros(0, np.int64))
    flat = FlatPolygons(np.concatenate(polygons).astype(np.float64), np.array([shape[0] for shape in shapes], np.int64))
    is_finite = np.isfinite(flat.vertices).all(axis=1)
    if not is_finite.all():
        index = int(np.searchsorted(np.cumsum(flat.num_vertices), np.argmin(is_finite), side="right"))
        raise ValueError(f"{what} {index} has coordinates that are not finite")
    return flat


def ignore_flags(ignore: npt.ArrayLike, num_targets: int) -> Bools:
    """One flag a target as an array of its own.

    Raises:
        ValueError: there are more or fewer flags.
    """
    flags = np.array(ignore, np.bool_).reshape(-1)
    if len(flags) != num_targets:
        raise ValueError(f"ignore has {len(flags)} flags for {num_targets} targets; one each is needed")
    return flags


def box_overlap(first: Regions, second: Regions) -> Floats:
    """(F, S) areas that bounding boxes have in common: no overlap of the regions is larger; NaN where one is empty."""
    a, b = first.boxes[:, None], second.boxes
    sides = np.minimum(a[..., 2:], b[:, 2:]) - np.maximum(a[..., :2], b[:, :2])
    np.maximum(sides, 0, out=sides)
    return sides[..., 0] * sides[..., 1]


def overlap_of_pairs(first: Regions, second: Regions, rows: Ints, columns: Ints) -> Floats:
    """Areas that first[rows[k]] and second[columns[k]] have in common, one a pair k."""
    return shapely.area(shapely.intersection(first.geometries[rows], second.geometries[columns]))
