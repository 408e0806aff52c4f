"""Polygons of one image: as flat arrays, and as shapely's geometries, which also hold those that cross themselves."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import shapely

Polygons = Sequence[npt.NDArray[np.floating]]
"""Polygons of one image: (n, 2) each, (x, y), n >= 3."""
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.integer]
Bools = npt.NDArray[np.bool_]
Geometries = npt.NDArray[np.object_]


class FlatPolygons(NamedTuple):
    """P polygons with V vertices in total, concatenated."""

    vertices: Floats
    """(V, 2), (x, y)."""
    num_vertices: Ints
    """(P,) number of vertices of each polygon."""


@dataclass(frozen=True)
class Regions:
    """P regions. Immutable, so they can be kept and used from any thread."""

    geometries: Geometries
    """(P,) shapely geometries."""
    areas: Floats
    """(P,) area of each region."""

    @classmethod
    def from_flat(cls, polygons: FlatPolygons) -> "Regions":
        """Returns one region per polygon. A polygon that crosses itself becomes the region it encloses."""
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
        """Returns the regions with their areas."""
        return cls(geometries, shapely.area(geometries))

    def __len__(self) -> int:
        return len(self.geometries)


def flat_polygons(polygons: Polygons | FlatPolygons, what: str) -> FlatPolygons:
    """Returns the checked polygons as one array.

    Args:
        polygons: `FlatPolygons` come from post-processing; they are returned without a check.
        what: "target" or "prediction", for error messages.

    Raises:
        ValueError: a polygon has fewer than 3 points or a coordinate that is not finite.
    """
    if isinstance(polygons, FlatPolygons):
        return polygons
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
    """Returns a copy of the don't-care flags, (num_targets,).

    Raises:
        ValueError: the number of flags differs.
    """
    flags = np.array(ignore, np.bool_).reshape(-1)
    if len(flags) != num_targets:
        raise ValueError(f"ignore has {len(flags)} flags for {num_targets} targets; one per target is needed")
    return flags
