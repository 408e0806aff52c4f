"""The polygons of a batch of images as flat arrays, so that no step loops over them in Python.

The pixel frames of a polygon (in each, pixel (i, j) covers [i, i+1) x [j, j+1); points are (x, y)):
stored (pixels of the file) -> original (upright: EXIF applied) -> input (what the network sees) -> map (input / map_stride).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dali_pipelines.geometry import is_affine

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class PolygonBatch:
    """The polygons of B images: P polygons with V vertices in total, in one pixel frame."""

    vertices: FloatArray
    """(V, 2) float32, (x, y)."""
    vertex_starts: npt.NDArray[np.int64]
    """(P + 1,) polygon p owns vertices[vertex_starts[p]:vertex_starts[p + 1]]."""
    polygon_starts: npt.NDArray[np.int64]
    """(B + 1,) image b owns polygons polygon_starts[b]:polygon_starts[b + 1]."""
    ignore: npt.NDArray[np.bool_]
    """(P,) flags of don't-care regions."""

    @classmethod
    def from_lists(
        cls, polygons: Sequence[Sequence[npt.ArrayLike]], ignore: Sequence[Sequence[bool]] | None = None
    ) -> "PolygonBatch":
        """Returns the batch of images whose polygons are given as lists of (n, 2) arrays.

        Args:
            ignore: one flag per polygon; None: all False.

        Raises:
            ValueError: the number of flags differs.
        """
        flat = [np.asarray(polygon, np.float32).reshape(-1, 2) for image in polygons for polygon in image]
        flags = [flag for image in ignore for flag in image] if ignore is not None else [False] * len(flat)
        if len(flags) != len(flat):
            raise ValueError(f"ignore has {len(flags)} flags for {len(flat)} polygons; one per polygon is needed")
        return cls(
            vertices=np.concatenate(flat) if flat else np.zeros((0, 2), np.float32),
            vertex_starts=starts_of([len(polygon) for polygon in flat]),
            polygon_starts=starts_of([len(image) for image in polygons]),
            ignore=np.asarray(flags, np.bool_),
        )

    @classmethod
    def concatenate(cls, batches: Sequence["PolygonBatch"]) -> "PolygonBatch":
        """Returns the images of all batches, one after the other."""
        return cls(
            vertices=np.concatenate([batch.vertices for batch in batches]),
            vertex_starts=starts_of(np.concatenate([np.diff(batch.vertex_starts) for batch in batches])),
            polygon_starts=starts_of(np.concatenate([np.diff(batch.polygon_starts) for batch in batches])),
            ignore=np.concatenate([batch.ignore for batch in batches]),
        )

    def __len__(self) -> int:
        """Returns the number of images."""
        return len(self.polygon_starts) - 1

    @property
    def num_polygons(self) -> int:
        """Number of polygons of all images."""
        return len(self.ignore)

    @property
    def image_of_polygon(self) -> npt.NDArray[np.int64]:
        """(P,) index of the image of each polygon."""
        return np.repeat(np.arange(len(self)), np.diff(self.polygon_starts))

    @property
    def polygon_of_vertex(self) -> npt.NDArray[np.int64]:
        """(V,) index of the polygon of each vertex."""
        return np.repeat(np.arange(self.num_polygons), np.diff(self.vertex_starts))

    def polygons_of(self, image: int) -> list[FloatArray]:
        """Returns the polygons of one image, (n, 2) float32 views."""
        first, last = self.polygon_starts[image], self.polygon_starts[image + 1]
        starts = self.vertex_starts
        return [self.vertices[starts[p] : starts[p + 1]] for p in range(first, last)]

    def ignore_of(self, image: int) -> npt.NDArray[np.bool_]:
        """Returns the ignore flags of one image's polygons."""
        return self.ignore[self.polygon_starts[image] : self.polygon_starts[image + 1]]

    def select(self, images: npt.ArrayLike) -> "PolygonBatch":
        """Returns the batch of these images, in this order; an image may occur more than once."""
        images = np.asarray(images, np.int64)
        polygons, polygon_starts = gather_ranges(self.polygon_starts, images)
        vertices, vertex_starts = gather_ranges(self.vertex_starts, polygons)
        return PolygonBatch(self.vertices[vertices], vertex_starts, polygon_starts, self.ignore[polygons])

    def transformed(self, matrices: npt.ArrayLike) -> "PolygonBatch":
        """Returns the polygons moved to another frame, by one matrix per image, affine or a perspective.

        Args:
            matrices: (B, 3, 3) float, target frame from this frame. A perspective must divide every vertex by a positive number.
        """
        per_vertex = np.asarray(matrices, np.float64)[self.image_of_polygon[self.polygon_of_vertex]]
        moved = np.einsum("vij,vj->vi", per_vertex[:, :2, :2], self.vertices) + per_vertex[:, :2, 2]
        if not is_affine(matrices):
            moved /= (np.einsum("vj,vj->v", per_vertex[:, 2, :2], self.vertices) + per_vertex[:, 2, 2])[:, None]
        return PolygonBatch(moved.astype(np.float32), self.vertex_starts, self.polygon_starts, self.ignore)

    def with_ignore(self, ignore: npt.NDArray[np.bool_]) -> "PolygonBatch":
        """Returns the same polygons with other ignore flags, (P,) bool."""
        return PolygonBatch(self.vertices, self.vertex_starts, self.polygon_starts, ignore)


def starts_of(counts: Sequence[int] | npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Returns (N + 1,) int64: where each of N consecutive ranges of these lengths begins, and where the last one ends."""
    return np.concatenate([[0], np.cumsum(np.asarray(counts, np.int64))]).astype(np.int64)


def gather_ranges(
    starts: npt.NDArray[np.int64], chosen: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Returns the indices of all elements of the chosen ranges, concatenated, and the starts of the new ranges."""
    counts = starts[chosen + 1] - starts[chosen]
    new_starts = starts_of(counts)
    indices = np.arange(new_starts[-1]) + np.repeat(starts[chosen] - new_starts[:-1], counts)
    return indices, new_starts
