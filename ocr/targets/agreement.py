"""Compares two sets of target maps, and draws random polygons of every difficult kind for the comparison."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ocr.polygons import FloatArray, PolygonBatch
from ocr.targets.config import TargetConfig
from ocr.targets.outline import NOTHING, measure_outlines
from ocr.targets.target_maps import TargetMaps


@dataclass(frozen=True)
class Agreement:
    """Differences between the maps of a batch and those of the reference."""

    box_pixels: int
    """Map pixels in the bounding boxes of all polygons with an area; each pixel counts once."""
    shrink_map_pixels: int
    """Pixels of the shrink map that differ."""
    shrink_mask_pixels: int
    """Pixels of the shrink mask that differ."""
    thresh_mask_pixels: int
    """Pixels of the threshold mask that differ."""
    thresh_map_error: float
    """Largest absolute difference of the threshold map."""

    @property
    def shrink_map_share(self) -> float:
        """Pixels of the shrink map that differ, as a fraction of the box pixels."""
        return self.shrink_map_pixels / max(self.box_pixels, 1)

    def __add__(self, other: "Agreement") -> "Agreement":
        """Returns the agreement on both batches."""
        return Agreement(
            self.box_pixels + other.box_pixels,
            self.shrink_map_pixels + other.shrink_map_pixels,
            self.shrink_mask_pixels + other.shrink_mask_pixels,
            self.thresh_mask_pixels + other.thresh_mask_pixels,
            max(self.thresh_map_error, other.thresh_map_error),
        )


def compare_maps(
    maps: TargetMaps, reference: TargetMaps, polygons_input: PolygonBatch, size: tuple[int, int], config: TargetConfig
) -> Agreement:
    """Returns the differences between `maps` and `reference`, both drawn from `polygons_input` at input size (H, W)."""

    def num_different(name: str) -> int:
        return int((getattr(maps, name).cpu() != getattr(reference, name).cpu()).sum())

    difference = (maps.thresh_map.cpu() - reference.thresh_map.cpu()).abs()
    return Agreement(
        _num_box_pixels(polygons_input, size, config),
        num_different("shrink_map"),
        num_different("shrink_mask"),
        num_different("thresh_mask"),
        float(difference.max()) if difference.numel() else 0.0,
    )


def _num_box_pixels(polygons_input: PolygonBatch, size: tuple[int, int], config: TargetConfig) -> int:
    stride = config.map_stride
    boxes = np.zeros((len(polygons_input), size[0] // stride, size[1] // stride), np.bool_)
    role = measure_outlines(polygons_input, size, config).role
    starts = polygons_input.vertex_starts
    for p in np.flatnonzero(role != NOTHING):
        polygon_map = polygons_input.vertices[starts[p] : starts[p + 1]] / stride
        first = np.maximum(np.ceil(polygon_map.min(axis=0) - 0.5), 0).astype(int)
        last = np.maximum(np.floor(polygon_map.max(axis=0) - 0.5) + 1, 0).astype(int)
        boxes[polygons_input.image_of_polygon[p], first[1] : last[1], first[0] : last[0]] = True
    return int(boxes.sum())


def random_polygons(
    rng: np.random.Generator, num_images: int, polygons_per_image: int, size: tuple[int, int]
) -> PolygonBatch:
    """Returns test polygons: convex, concave, curved strips, lines and points, with 3 to 30 vertices in either direction.

    They are 6 to 300 pixels long, down to 1/30 as thick, rotated, and inside, partly outside or entirely outside the (H, W) image.
    None crosses itself. One in ten is ignored.
    """
    polygons = [[_random_polygon(rng, size) for _ in range(polygons_per_image)] for _ in range(num_images)]
    ignore = rng.random((num_images, polygons_per_image)) < 0.1
    return PolygonBatch.from_lists(polygons, ignore.tolist())


def _random_polygon(rng: np.random.Generator, size: tuple[int, int]) -> FloatArray:
    kind = rng.choice(["convex", "concave", "strip", "line", "point"], p=[0.3, 0.3, 0.3, 0.05, 0.05])
    num_vertices = int(rng.integers(3, 31))
    if kind in ("line", "point"):
        shape = np.outer(rng.uniform(-1, 1, num_vertices) * (kind == "line"), [1, 0])
    elif kind == "strip":
        shape = _strip(rng, max(num_vertices // 2, 2))
    else:
        # Less than half a turn from one vertex to the next, so the border goes round the centre once.
        angle = 2 * np.pi * (np.arange(num_vertices) + rng.uniform(0, 0.9, num_vertices)) / num_vertices
        radius = rng.uniform(0.25, 1, num_vertices) if kind == "concave" else np.ones(num_vertices)
        shape = radius[:, None] * np.column_stack([np.cos(angle), np.sin(angle)]) * [1, np.exp(rng.uniform(-3.4, 0))]
    turn = rng.uniform(0, 2 * np.pi)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    center = rng.uniform(-0.2, 1.2, 2) * size[::-1]
    half_length = np.exp(rng.uniform(np.log(3), np.log(150)))
    polygon = (shape * half_length) @ rotation.T + center
    return polygon[:: rng.choice([-1, 1])].astype(np.float32)


def _strip(rng: np.random.Generator, num_columns: int) -> npt.NDArray[np.float64]:
    """Returns (2 * num_columns, 2), the outline of a text line bent to a parabola; it is 2 long."""
    x = np.linspace(-1, 1, num_columns)
    middle, half_height = rng.uniform(-0.5, 0.5) * x**2, np.exp(rng.uniform(-3.4, -1.6))
    top, bottom = np.column_stack([x, middle - half_height]), np.column_stack([x, middle + half_height])
    return np.concatenate([top, bottom[::-1]])
