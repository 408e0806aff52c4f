"""Finds text in a probability map, as polygons with scores in the input frame, and moves polygons to other frames.

A region is a set of 8-connected pixels above `bin_thresh`, in the map frame. Its shape comes from pixel centres (+0.5), its size
from the sum of its probabilities. At r = 0.4 a line 10 px high leaves a region 1.6 px high, so an error of half a pixel there
becomes 3 px in the box. A soft border moves a thresholded size, but not a sum of probabilities.

A receipt has a hundred regions, and Python code that runs once per region would block the other threads. So compiled functions
process all regions of a map together, and only OpenCV's and pyclipper's functions are called once per region.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
import numpy.typing as npt
import torch

from dali_pipelines.compiled import compiled
from dali_pipelines.geometry import transform_points
from dali_pipelines.source import PlannedSample
from ocr.postprocess.config import PostprocessConfig
from ocr.postprocess.levels import Levels, to_levels
from ocr.postprocess.outlines import grown_outlines
from ocr.postprocess.regions import Numbers, Regions, best_regions
from ocr.postprocess.unclip import Points, Starts, border_distance, unclip_distance
from ocr.targets.config import TargetConfig

FloatArray = npt.NDArray[np.float32]

log = logging.getLogger(__name__)
NUM_NAMED = 3
"""Images that a warning names."""


@dataclass(frozen=True, eq=False)
class Detections:
    """Text found in one image: N polygons with V vertices in total, best first.

    The functions that return or take detections name the pixel frame.
    """

    vertices: FloatArray
    """(V, 2), (x, y), one polygon after the other. A polygon is clockwise; its first edge is the upper one in reading direction."""
    vertex_starts: Starts
    """(N + 1,); the vertices of polygon n are vertices[vertex_starts[n] : vertex_starts[n + 1]]."""
    scores: FloatArray
    """(N,) mean probability of each polygon's region."""
    num_cut: int = 0
    """Regions that were left out only because there are more than `max_candidates`."""
    num_below: int = 0
    """The last polygons, which score below `box_thresh`. 0 unless the caller wants them."""

    @classmethod
    def from_polygons(cls, polygons: list[FloatArray], scores: npt.ArrayLike) -> "Detections":
        """Returns the detections of N polygons, (n, 2) each, with their scores."""
        vertices = np.concatenate([np.zeros((0, 2)), *polygons], dtype=np.float32)
        return cls(vertices, np.cumsum([0, *map(len, polygons)]), np.asarray(scores, np.float32))

    def __len__(self) -> int:
        """Returns the number of polygons."""
        return len(self.scores)

    @property
    def polygons(self) -> list[FloatArray]:
        """The polygons as a list of (n, 2) views."""
        return [self.vertices[start:end] for start, end in pairwise(self.vertex_starts.tolist())]

    def first(self, number: int) -> "Detections":
        """Returns the best `number` detections, or all if there are fewer."""
        number = min(number, len(self))
        starts = self.vertex_starts[: number + 1]
        return Detections(self.vertices[: starts[-1]], starts, self.scores[:number])

    def parted(self) -> "tuple[Detections, Detections]":
        """Returns the detections of at least `box_thresh`, and those below."""
        num_kept = len(self) - self.num_below
        border = self.vertex_starts[num_kept]
        return (
            Detections(
                self.vertices[:border], self.vertex_starts[: num_kept + 1], self.scores[:num_kept], self.num_cut
            ),
            Detections(self.vertices[border:], self.vertex_starts[num_kept:] - border, self.scores[num_kept:]),
        )


def detect(
    prob_map: npt.NDArray[np.floating], *, map_stride: int, shrink_ratio: float, config: PostprocessConfig
) -> Detections:
    """Returns the text of one image in the input frame, best first; quantises the map and calls `detect_levels`.

    Args:
        prob_map: (Hm, Wm) probabilities in [0, 1] of the shrunk text regions.
        map_stride: input pixels per map pixel.
        shrink_ratio: r of the network's training targets.

    Raises:
        ValueError: the map does not have two dimensions, or has values outside [0, 1].
    """
    levels = to_levels(torch.from_numpy(_checked(prob_map)), config.bin_thresh).numpy()
    return detect_levels(levels, map_stride=map_stride, shrink_ratio=shrink_ratio, config=config)


def detect_levels(
    levels: Levels, *, map_stride: int, shrink_ratio: float, config: PostprocessConfig, with_below: bool = False
) -> Detections:
    """Returns the text of one image in the input frame, best first.

    Boxes at the border may exceed the input; `moved_detections` clips them to the image.

    Args:
        levels: (Hm, Wm) from `to_levels` with the `bin_thresh` of `config`.
        map_stride: input pixels per map pixel.
        shrink_ratio: r of the network's training targets.
        with_below: the detections below `box_thresh` follow, as many as `max_candidates` leaves room for.

    Raises:
        ValueError: the map does not have two dimensions or is not uint8.
    """
    if levels.ndim != 2 or levels.dtype != np.uint8:
        raise ValueError(f"levels are {levels.dtype} of shape {levels.shape}; one map (Hm, Wm) of uint8 is needed")
    regions = best_regions(levels, config, with_below=with_below)
    if not regions.contours:
        return Detections.from_polygons([], [])
    rectangles = _grown_rectangles(regions, map_stride=map_stride, shrink_ratio=shrink_ratio, config=config)
    shorter = rectangles[:, 2:4].min(axis=1) * map_stride
    is_large = (shorter >= config.min_side) & (shorter > 0)
    vertices, starts = _corners(rectangles[is_large]), 4 * np.arange(np.count_nonzero(is_large) + 1)
    if config.output == "polygon":
        outlines, outline_starts = grown_outlines(
            _subset(regions, is_large), map_stride=map_stride, shrink_ratio=shrink_ratio, config=config
        )
        vertices, starts = _outlines_or_quads(vertices, outlines, outline_starts)
    # Contours run through pixel centres; the centre of index 0 is at 0.5 map pixels.
    vertices_input = ((vertices + 0.5) * map_stride).astype(np.float32)
    num_below = int(np.count_nonzero(is_large[len(is_large) - regions.num_below :]))
    scores = regions.scores[is_large].astype(np.float32)
    return Detections(vertices_input, starts, scores, regions.num_cut, num_below)


def detect_letterboxed(
    levels: Levels,
    sample: PlannedSample,
    original_size: tuple[int, int],
    config: PostprocessConfig,
    targets: TargetConfig,
    *,
    with_below: bool = False,
) -> Detections:
    """Returns the text of one letterboxed image in pixels of the upright image, best first.

    Args:
        levels: (Hm, Wm) of the whole square input, from `to_levels` with the `bin_thresh` of `config`.
        sample: the image's plan; the image lies at the top left of the input.
        original_size: (H, W) of the upright image.
        targets: settings of the network's training targets.
        with_below: as in `detect_levels`.
    """
    height, width = (-(-side // targets.map_stride) for side in sample.resized_size)
    detections_input = detect_levels(
        levels[:height, :width],
        map_stride=targets.map_stride,
        shrink_ratio=targets.shrink_ratio,
        config=config,
        with_below=with_below,
    )
    return moved_detections(detections_input, np.linalg.inv(sample.input_from_original), original_size)


def moved_detections(
    detections: Detections, target_from_source: npt.ArrayLike, target_size: tuple[int, int]
) -> Detections:
    """Returns the detections in another frame, clipped to it: input -> original, or original -> stored.

    Vertices outside are moved to the border, so a quad stays a quad. Polygons entirely outside (in the padding) are dropped. If the
    matrix mirrors, as four EXIF orientations do, polygons are made clockwise again and keep their first edge.

    Args:
        target_from_source: (3, 3) affine matrix, last row (0, 0, 1).
        target_size: (H, W) of the image in the target frame.
    """
    if len(detections) == 0:
        return detections
    matrix = np.asarray(target_from_source, np.float64)
    mirrors = bool(matrix[0, 0] * matrix[1, 1] < matrix[0, 1] * matrix[1, 0])
    points = transform_points(matrix, detections.vertices)
    height, width = target_size
    vertices, starts, kept = _clipped(points, detections.vertex_starts, float(height), float(width), mirrors)
    num_below = int(np.count_nonzero(kept >= len(detections) - detections.num_below))
    return Detections(vertices, starts, detections.scores[kept], detections.num_cut, num_below)


def warn_of_cut_regions(num_cut: Mapping[str, int], max_candidates: int) -> None:
    """Logs one warning if images have more regions above `box_thresh` than become polygons.

    Args:
        num_cut: `Detections.num_cut` by file name.
    """
    too_many = {name: max_candidates + number for name, number in num_cut.items() if number > 0}
    if not too_many:
        return
    named = ", ".join(f"{name} ({number:,} regions)" for name, number in list(too_many.items())[:NUM_NAMED])
    log.warning(
        "%s%s: more regions score above postprocess.box_thresh than postprocess.max_candidates=%d, so those with the lowest scores "
        "are left out; raise postprocess.max_candidates if they are text",
        named,
        f" and {len(too_many) - NUM_NAMED} more images" if len(too_many) > NUM_NAMED else "",
        max_candidates,
    )


def _checked(prob_map: npt.NDArray[np.floating]) -> FloatArray:
    if prob_map.ndim != 2:
        raise ValueError(f"prob_map has shape {prob_map.shape}; one map (Hm, Wm) is needed")
    prob_map = np.ascontiguousarray(prob_map, np.float32)
    # The upper end of checkRange is excluded; NaN is never inside.
    inside, (x, y) = cv2.checkRange(prob_map, minVal=0.0, maxVal=float(np.nextafter(np.float32(1), np.float32(2))))
    if not inside:
        raise ValueError(f"prob_map[{y}, {x}] is {prob_map[y, x]}; probabilities in [0, 1] are needed")
    return prob_map


def _subset(regions: Regions, is_kept: npt.NDArray[np.bool_]) -> Regions:
    contours = [regions.contours[place] for place in np.flatnonzero(is_kept).tolist()]
    return Regions(contours, regions.areas[is_kept], regions.scores[is_kept], regions.num_cut)


def _grown_rectangles(regions: Regions, *, map_stride: int, shrink_ratio: float, config: PostprocessConfig) -> Numbers:
    """Returns (N, 5): the smallest rectangle around each region, resized to the region's area, then unclipped.

    Columns as in OpenCV: centre x and y, two sides, angle of the first side in degrees.
    """
    found = map(cv2.minAreaRect, regions.contours)
    rectangles = np.array([(*center, *sides, angle) for center, sides, angle in found])
    area, perimeter = _resize_(rectangles, regions.areas)
    distance = unclip_distance(area, perimeter, map_stride=map_stride, shrink_ratio=shrink_ratio, config=config)
    rectangles[:, 2:4] += 2 * distance[:, None]
    return rectangles


@compiled
def _resize_(rectangles: Numbers, wanted_areas: Numbers) -> tuple[Numbers, Numbers]:
    """Resizes rectangles (N, 5), whose sides run through the outermost pixel centres, to the wanted areas.

    Returns their new areas and perimeters, (N,) each.
    """
    areas, perimeters = np.empty(len(rectangles)), np.empty(len(rectangles))
    for index in range(len(rectangles)):
        first, second = rectangles[index, 2], rectangles[index, 3]
        border = border_distance(first * second, 2 * (first + second), wanted_areas[index])
        first, second = first + 2 * border, second + 2 * border
        rectangles[index, 2], rectangles[index, 3] = first, second
        areas[index], perimeters[index] = first * second, 2 * (first + second)
    return areas, perimeters


def _corners(rectangles: Numbers) -> Points:
    """Returns (4 N, 2) corners, clockwise, first edge on top. The side closest to horizontal is the reading direction."""
    quarter_turns = np.rint(rectangles[:, 4] / 90)
    radians = np.deg2rad(rectangles[:, 4] - 90 * quarter_turns)
    # NumPy's functions: those of a compiled loop may differ in the last bit.
    return _place_corners(rectangles, quarter_turns, np.cos(radians), np.sin(radians))


@compiled
def _place_corners(rectangles: Numbers, quarter_turns: Numbers, cos: Numbers, sin: Numbers) -> Points:
    corners = np.empty((4 * len(rectangles), 2))
    for index in range(len(rectangles)):
        width, height = rectangles[index, 2], rectangles[index, 3]
        if quarter_turns[index] % 2 != 0:
            width, height = height, width
        along_x, along_y = cos[index] * width / 2, sin[index] * width / 2
        down_x, down_y = -sin[index] * height / 2, cos[index] * height / 2
        for corner in range(4):
            across = 1.0 if corner in (1, 2) else -1.0
            upright = 1.0 if corner >= 2 else -1.0
            corners[4 * index + corner, 0] = rectangles[index, 0] + across * along_x + upright * down_x
            corners[4 * index + corner, 1] = rectangles[index, 1] + across * along_y + upright * down_y
    return corners


@compiled
def _outlines_or_quads(quads: Points, outlines: Points, outline_starts: Starts) -> tuple[Points, Starts]:
    """Returns each region's outline, starting at the vertex closest to the quad's first corner, or its quad if it has no outline.

    Args:
        quads: (4 N, 2).
        outlines, outline_starts: as in `Detections`; N outlines, without vertices where there is none.
    """
    num_regions = len(outline_starts) - 1
    starts = np.zeros(num_regions + 1, np.int64)
    for region in range(num_regions):
        number = outline_starts[region + 1] - outline_starts[region]
        starts[region + 1] = starts[region] + (number if number > 0 else 4)
    polygons = np.empty((starts[-1], 2))
    for region in range(num_regions):
        quad, polygon = quads[4 * region : 4 * region + 4], polygons[starts[region] : starts[region + 1]]
        outline = outlines[outline_starts[region] : outline_starts[region + 1]]
        if len(outline) == 0:
            polygon[:] = quad
            continue
        first, shortest = 0, np.inf
        for vertex in range(len(outline)):
            distance = (outline[vertex, 0] - quad[0, 0]) ** 2 + (outline[vertex, 1] - quad[0, 1]) ** 2
            if distance < shortest:
                first, shortest = vertex, distance
        for vertex in range(len(outline)):
            polygon[vertex] = outline[(first + vertex) % len(outline)]
    return polygons, starts


@compiled
def _clipped(
    points: Points, starts: Starts, height: float, width: float, mirrors: bool
) -> tuple[FloatArray, Starts, Starts]:
    """Returns the polygons with an area inside (height, width), with vertices moved to the border: vertices, starts, their indices.

    Args:
        points, starts: as in `Detections`.
        mirrors: the polygons were mirrored and become clockwise again; a quad keeps its first edge.
    """
    num_polygons = len(starts) - 1
    vertices = np.empty(points.shape, np.float32)
    kept, kept_starts = np.empty(num_polygons, np.int64), np.zeros(num_polygons + 1, np.int64)
    num_kept = 0
    for polygon in range(num_polygons):
        first, number = starts[polygon], starts[polygon + 1] - starts[polygon]
        to = kept_starts[num_kept]
        left, top, right, bottom = np.inf, np.inf, -np.inf, -np.inf
        for vertex in range(number):
            x = min(max(points[first + vertex, 0], 0.0), width)
            y = min(max(points[first + vertex, 1], 0.0), height)
            left, top, right, bottom = min(left, x), min(top, y), max(right, x), max(bottom, y)
            place = (number - 1 - vertex + number // 2) % number if mirrors else vertex
            vertices[to + place, 0], vertices[to + place, 1] = x, y
        if right > left and bottom > top:
            kept[num_kept], kept_starts[num_kept + 1] = polygon, to + number
            num_kept += 1
    return vertices[: kept_starts[num_kept]].copy(), kept_starts[: num_kept + 1].copy(), kept[:num_kept].copy()
