"""Probability map -> polygons with scores in the input frame, and from there to other frames.

Region: 8-connected pixels above `bin_thresh`, in the map frame. Its shape is taken from pixel centres (+0.5), its
size from the sum of its probabilities. At r = 0.4 a line 10 px high leaves a region 1.6 px high, so an error of half
a pixel there is 3 px in the box; a sum of probabilities does not move when a border is soft, a threshold does.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from dali_pipelines.geometry import apply
from ocr.postprocess.config import PostprocessConfig
from ocr.postprocess.unclip import UnclipRatio, distance_to_area, grow_polygon, unclip_distance

FloatArray = npt.NDArray[np.float32]
Points = npt.NDArray[np.float64]

STAIR_STEP = 1.0
"""Map pixels by which the outline of a slanted straight border leaves that border: simplification always allows it."""
BORDER_RANGE = (-1.0, 0.5)
"""Map pixels from the outermost pixel centres to the border: half a pixel in a crisp map, less in a soft one."""


@dataclass(frozen=True)
class Detections:
    """Text found in one image, best first; the pixel frame is named where a value is made or taken."""

    polygons: list[FloatArray]
    """Of (n, 2) float32, (x, y), clockwise; the first edge is the upper one as the text is read."""
    scores: FloatArray
    """One a polygon: mean probability of its region."""


@dataclass(frozen=True)
class _Region:
    """One connected region of a map."""

    contour: npt.NDArray[np.int32]
    """(n, 2) outermost pixels, indices in the map."""
    area: float
    """Expected number of text pixels: the probabilities in and beside the region, summed."""
    score: float


def detect(
    prob_map: npt.NDArray[np.floating], *, map_stride: int, shrink_ratio: float, config: PostprocessConfig
) -> Detections:
    """The text of one image in the input frame, best scored first.

    Boxes at the border may reach out of the input: `moved_detections` cuts them at the border of the image.

    Args:
        prob_map: (Hm, Wm) probabilities in [0, 1] of the shrunk text regions.
        map_stride: input pixels a map pixel.
        shrink_ratio: r of the targets the network was trained with.

    Raises:
        ValueError: the map has another rank, or values that are not probabilities.
    """
    prob_map = _checked(prob_map)
    polygons, scores = [], []
    for region in _best_regions(prob_map, config):
        rectangle = _grown_rectangle(region, shrink_ratio, config.unclip_ratio)
        if min(rectangle[1]) * map_stride < config.min_side:
            continue
        polygon_map = _corners(rectangle)
        outline = _grown_outline(region, shrink_ratio, config) if config.output == "polygon" else None
        if outline is not None:
            polygon_map = _ordered_like(outline, polygon_map)
        # Contours run through pixel centres: index 0 is 0.5 of a map pixel from the origin.
        polygons.append(((polygon_map + 0.5) * map_stride).astype(np.float32))
        scores.append(region.score)
    return Detections(polygons, np.array(scores, np.float32))


def moved_detections(
    detections: Detections, target_from_source: npt.ArrayLike, target_size: tuple[int, int]
) -> Detections:
    """The detections in another frame, cut at its borders: input -> original, and original -> stored.

    Vertices outside are moved to the border, so a quad stays a quad; what lies wholly outside (in the padding) is
    dropped. Where the matrix mirrors, as four EXIF orientations do, polygons are turned clockwise again and keep their
    first edge.

    Args:
        target_from_source: (3, 3) affine matrix, last row (0, 0, 1).
        target_size: (H, W) of the image in the target frame.
    """
    matrix = np.asarray(target_from_source, np.float64)
    mirrors = np.linalg.det(matrix[:2, :2]) < 0
    height, width = target_size
    polygons, kept = [], []
    for index, polygon in enumerate(detections.polygons):
        moved = np.clip(apply(matrix, polygon), 0, (width, height))
        if np.ptp(moved, axis=0).min() == 0:
            continue
        polygons.append((_mirrored_order(moved) if mirrors else moved).astype(np.float32))
        kept.append(index)
    return Detections(polygons, detections.scores[kept])


def _checked(prob_map: npt.NDArray[np.floating]) -> FloatArray:
    if prob_map.ndim != 2:
        raise ValueError(f"prob_map has shape {prob_map.shape}; one map (Hm, Wm) is needed")
    prob_map = np.ascontiguousarray(prob_map, np.float32)
    # The upper end of checkRange is excluded; NaN is never inside.
    inside, (x, y) = cv2.checkRange(prob_map, minVal=0.0, maxVal=float(np.nextafter(np.float32(1), np.float32(2))))
    if not inside:
        raise ValueError(f"prob_map[{y}, {x}] is {prob_map[y, x]}; probabilities in [0, 1] are needed")
    return prob_map


def _best_regions(prob_map: FloatArray, config: PostprocessConfig) -> Iterator[_Region]:
    """Regions scored at least `box_thresh`, the best `max_candidates` of them, best first."""
    binary = prob_map > config.bin_thresh
    # The default algorithm takes 8.4 ms for a map of 1280 x 1280, this one 2.5 (OpenCV 5.0, one thread).
    num_labels, labels, stats, _ = cv2.connectedComponentsWithStatsWithAlgorithm(
        binary.view(np.uint8), connectivity=8, ltype=cv2.CV_32S, ccltype=cv2.CCL_BBDT
    )
    # All regions are scored at once: the map of an untrained network can have a hundred thousand.
    text = np.flatnonzero(binary)
    sums = np.bincount(labels.ravel()[text], weights=prob_map.ravel()[text], minlength=num_labels)
    scores = sums / np.maximum(stats[:, cv2.CC_STAT_AREA], 1)
    best = 1 + np.argsort(-scores[1:], kind="stable")[: config.max_candidates]
    for label in best[scores[best] >= config.box_thresh]:
        yield _region(prob_map, labels, label, stats[label], float(scores[label]))


def _region(
    prob_map: FloatArray,
    labels: npt.NDArray[np.int32],
    label: int,
    stats: npt.NDArray[np.int32],
    score: float,
) -> _Region:
    # One pixel more on each side than the region: a soft border continues there.
    left, top = max(stats[cv2.CC_STAT_LEFT] - 1, 0), max(stats[cv2.CC_STAT_TOP] - 1, 0)
    right = stats[cv2.CC_STAT_LEFT] + stats[cv2.CC_STAT_WIDTH] + 1
    bottom = stats[cv2.CC_STAT_TOP] + stats[cv2.CC_STAT_HEIGHT] + 1
    mask = (labels[top:bottom, left:right] == label).astype(np.uint8)
    fringe = cv2.dilate(mask, np.ones((3, 3), np.uint8))
    area = float(np.sum(prob_map[top:bottom, left:right], where=fringe.view(np.bool_), dtype=np.float64))
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE, offset=(int(left), int(top)))
    return _Region(contours[0][:, 0], area, score)


Rectangle = tuple[tuple[float, float], tuple[float, float], float]
"""OpenCV's: centre (x, y), sides, angle of the first side in degrees."""


def _grown_rectangle(region: _Region, shrink_ratio: float, unclip_ratio: UnclipRatio) -> Rectangle:
    """The smallest rectangle around a region, given the region's area, then unclipped."""
    center, (width, height), angle = cv2.minAreaRect(region.contour)
    border = _border(width * height, 2 * (width + height), region.area)
    width, height = width + 2 * border, height + 2 * border
    distance = unclip_distance(width * height, 2 * (width + height), shrink_ratio, unclip_ratio)
    return center, (width + 2 * distance, height + 2 * distance), angle


def _grown_outline(region: _Region, shrink_ratio: float, config: PostprocessConfig) -> Points | None:
    """A region's outline, simplified, given the region's area, then unclipped; None where it is too thin for one."""
    thickness = 2 * region.area / max(cv2.arcLength(region.contour, True), 1.0)
    outline = cv2.approxPolyDP(region.contour, max(STAIR_STEP, config.polygon_tolerance * thickness), True)
    area, perimeter = cv2.contourArea(outline), cv2.arcLength(outline, True)
    if len(outline) < 4 or area == 0:
        return None
    border = _border(area, perimeter, region.area)
    area, perimeter = area + perimeter * border + 4 * border**2, perimeter + 8 * border
    distance = unclip_distance(area, perimeter, shrink_ratio, config.unclip_ratio)
    return grow_polygon(outline[:, 0], border + distance)


def _border(area: float, perimeter: float, wanted_area: float) -> float:
    """How far outside the outermost pixel centres a shape's border is, so that it has the wanted area."""
    return min(max(distance_to_area(area, perimeter, wanted_area), BORDER_RANGE[0]), BORDER_RANGE[1])


def _corners(rectangle: Rectangle) -> Points:
    """(4, 2) clockwise, first edge up: the side nearest to horizontal is taken as the reading direction."""
    center, (width, height), angle = rectangle
    quarter_turns = round(angle / 90)
    if quarter_turns % 2:
        width, height = height, width
    radians = np.deg2rad(angle - 90 * quarter_turns)
    along = np.array([np.cos(radians), np.sin(radians)]) * width / 2
    down = np.array([-np.sin(radians), np.cos(radians)]) * height / 2
    return np.array(center) + np.array([-along - down, along - down, along + down, -along + down])


def _ordered_like(outline: Points, quad: Points) -> Points:
    """The outline clockwise, from the vertex nearest to the quad's first corner."""
    clockwise = outline if _signed_area(outline) > 0 else outline[::-1]
    first = int(np.argmin(np.square(clockwise - quad[0]).sum(axis=1)))
    return np.roll(clockwise, -first, axis=0)


def _mirrored_order(polygon: Points) -> Points:
    """Vertices of a mirrored polygon, turned clockwise again; a quad's first edge stays its first."""
    return np.roll(polygon[::-1], len(polygon) // 2, axis=0)


def _signed_area(polygon: Points) -> float:
    """Positive for clockwise as seen on the picture, where y points down."""
    x, y = polygon.T
    return float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y) / 2)
