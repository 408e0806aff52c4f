"""Probability map -> polygons with scores in the input frame, and from there to other frames.

Region: 8-connected pixels above `bin_thresh`, in the map frame. Its shape is taken from pixel centres (+0.5), its
size from the sum of its probabilities. At r = 0.4 a line 10 px high leaves a region 1.6 px high, so an error of half
a pixel there is 3 px in the box; a sum of probabilities does not move when a border is soft, a threshold does.

A receipt has a hundred regions. What a worker thread does for each of them in Python keeps the other threads waiting, so
the regions of a map go through NumPy together; only OpenCV's and pyclipper's functions are called once a region.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import torch

from dali_pipelines.geometry import apply
from ocr.postprocess.config import PostprocessConfig
from ocr.postprocess.levels import FIRST_TEXT_LEVEL, Levels, probabilities_of_levels, to_levels
from ocr.postprocess.unclip import distance_to_area, grow_polygon, unclip_distance

FloatArray = npt.NDArray[np.float32]
Points = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.float64]
Bytes = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int32]
Contour = npt.NDArray[np.int32]
"""(n, 1, 2) outermost pixels of a region as OpenCV has them: (x, y) indices."""

STAIR_STEP = 1.0
"""Map pixels by which the outline of a slanted straight border leaves that border: simplification always allows it."""
BORDER_RANGE = (-1.0, 0.5)
"""Map pixels from the outermost pixel centres to the border: half a pixel in a crisp map, less in a soft one."""

MARGIN = 2
"""Pixels around the text that are looked at: its soft border, and the neighbours of that."""


@dataclass(frozen=True)
class Detections:
    """Text found in one image, best first; the pixel frame is named where a value is made or taken."""

    polygons: list[FloatArray]
    """Of (n, 2) float32, (x, y), clockwise; the first edge is the upper one as the text is read."""
    scores: FloatArray
    """One a polygon: mean probability of its region."""


@dataclass(frozen=True)
class _Regions:
    """The N connected regions of a map that may become polygons, best scored first."""

    contours: list[Contour]
    """Indices in the map."""
    areas: Numbers
    """(N,) expected number of text pixels: the probabilities in and beside each region, summed."""
    scores: Numbers
    """(N,)"""

    def subset(self, keep: npt.NDArray[np.bool_]) -> "_Regions":
        contours = [contour for contour, is_kept in zip(self.contours, keep, strict=True) if is_kept]
        return _Regions(contours, self.areas[keep], self.scores[keep])


def detect(
    prob_map: npt.NDArray[np.floating], *, map_stride: int, shrink_ratio: float, config: PostprocessConfig
) -> Detections:
    """The text of one image in the input frame, best scored first: `detect_levels` of the map's levels.

    Args:
        prob_map: (Hm, Wm) probabilities in [0, 1] of the shrunk text regions.
        map_stride: input pixels a map pixel.
        shrink_ratio: r of the targets the network was trained with.

    Raises:
        ValueError: the map has another rank, or values that are not probabilities.
    """
    levels = to_levels(torch.from_numpy(_checked(prob_map)), config.bin_thresh).numpy()
    return detect_levels(levels, map_stride=map_stride, shrink_ratio=shrink_ratio, config=config)


def detect_levels(levels: Levels, *, map_stride: int, shrink_ratio: float, config: PostprocessConfig) -> Detections:
    """The text of one image in the input frame, best scored first.

    Boxes at the border may reach out of the input: `moved_detections` cuts them at the border of the image.

    Args:
        levels: (Hm, Wm) of `to_levels`, made with the `bin_thresh` of `config`.
        map_stride: input pixels a map pixel.
        shrink_ratio: r of the targets the network was trained with.

    Raises:
        ValueError: the map has another rank or type.
    """
    if levels.ndim != 2 or levels.dtype != np.uint8:
        raise ValueError(f"levels are {levels.dtype} of shape {levels.shape}; one map (Hm, Wm) of uint8 is needed")
    regions = _best_regions(levels, config)
    if not regions.contours:
        return Detections([], np.zeros(0, np.float32))
    rectangles = _grown_rectangles(regions, shrink_ratio, config)
    is_large = rectangles[:, 2:4].min(axis=1) * map_stride >= config.min_side
    regions, quads = regions.subset(is_large), _corners(rectangles[is_large])
    polygons_map = list(quads)
    if config.output == "polygon":
        for index, outline in enumerate(_grown_outlines(regions, shrink_ratio, config)):
            if outline is not None:
                polygons_map[index] = _ordered_like(outline, quads[index])
    # Contours run through pixel centres: index 0 is 0.5 of a map pixel from the origin.
    polygons = [((polygon + 0.5) * map_stride).astype(np.float32) for polygon in polygons_map]
    return Detections(polygons, regions.scores.astype(np.float32))


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
    if not detections.polygons:
        return detections
    matrix = np.asarray(target_from_source, np.float64)
    mirrors = np.linalg.det(matrix[:2, :2]) < 0
    height, width = target_size
    starts = np.cumsum([0, *map(len, detections.polygons)])
    points = np.clip(apply(matrix, np.concatenate(detections.polygons)), 0, (width, height))
    extents = np.maximum.reduceat(points, starts[:-1]) - np.minimum.reduceat(points, starts[:-1])
    kept = np.flatnonzero((extents > 0).all(axis=1))
    moved = points.astype(np.float32)
    polygons = [moved[starts[index] : starts[index + 1]] for index in kept]
    return Detections(
        [_mirrored_order(polygon) for polygon in polygons] if mirrors else polygons, detections.scores[kept]
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


def _best_regions(levels: Levels, config: PostprocessConfig) -> _Regions:
    """Regions scored at least `box_thresh`, the best `max_candidates` of them, best first."""
    window, text, corner = _text_window(levels)
    # Labels alone take 0.4 ms on 840,000 pixels, with OpenCV's statistics 3.5 ms (OpenCV 5.0, one thread).
    num_labels, labels = cv2.connectedComponentsWithAlgorithm(
        text, connectivity=8, ltype=cv2.CV_32S, ccltype=cv2.CCL_BBDT
    )
    probabilities = probabilities_of_levels(config.bin_thresh)
    text_pixels = np.flatnonzero(text.view(np.bool_))
    label_of_pixel = labels.ravel().take(text_pixels)
    sums, counts = _sums_of_regions(label_of_pixel, probabilities.take(window.ravel().take(text_pixels)), num_labels)
    scores = sums / np.maximum(counts, 1)
    best = 1 + np.argsort(-scores[1:], kind="stable")[: config.max_candidates]
    best = best[scores[best] >= config.box_thresh]
    areas = sums + _fringe_sums(window, text, labels, num_labels, probabilities)

    is_best = np.zeros(num_labels, np.bool_)
    is_best[best] = True
    text.ravel()[text_pixels[~is_best.take(label_of_pixel)]] = 0
    contour_of_label = _outer_contours(text, labels, len(best))
    return _Regions([contour_of_label[label] + corner for label in best.tolist()], areas[best], scores[best])


def _sums_of_regions(label_of_pixel: Labels, probabilities: Numbers, num_labels: int) -> tuple[Numbers, Numbers]:
    """(num_labels,) sum of the probabilities, and number, of each region's pixels.

    All regions are summed at once: the map of an untrained network can have a hundred thousand. First along each run of equal
    labels, which is faster than counting single pixels.
    """
    starts = np.flatnonzero(np.diff(label_of_pixel, prepend=0))
    label_of_run = label_of_pixel[starts]
    lengths = np.diff(starts, append=len(label_of_pixel))
    sums = _sums_by_label(label_of_run, np.add.reduceat(probabilities, starts), num_labels)
    return sums, _sums_by_label(label_of_run, lengths, num_labels)


def _sums_by_label(labels: Labels, weights: npt.NDArray[np.generic], num_labels: int) -> Numbers:
    return np.asarray(np.bincount(labels, weights=weights, minlength=num_labels), np.float64)


def _text_window(levels: Levels) -> tuple[Levels, Bytes, npt.NDArray[np.int32]]:
    """The part of a map that holds its text, contiguous; 1 where it is text; its corner.

    Around the text lie `MARGIN` pixels, of level 0 outside of the map. The corner is the (x, y) of the window's first pixel in
    the map.
    """
    bordered = cv2.copyMakeBorder(levels, MARGIN, MARGIN, MARGIN, MARGIN, cv2.BORDER_CONSTANT, value=0)
    left, top, width, height = cv2.boundingRect((bordered >= FIRST_TEXT_LEVEL).view(np.uint8))
    left, top = max(left - MARGIN, 0), max(top - MARGIN, 0)
    window = np.ascontiguousarray(bordered[top : top + height + 2 * MARGIN, left : left + width + 2 * MARGIN])
    return window, (window >= FIRST_TEXT_LEVEL).view(np.uint8), np.array([left - MARGIN, top - MARGIN], np.int32)


def _fringe_sums(window: Levels, text: Bytes, labels: Labels, num_labels: int, probabilities: Numbers) -> Numbers:
    """(num_labels,) the probabilities of the pixels beside each region, where its soft border continues, summed.

    A pixel between two regions counts for both; of more than two, for those with the lowest and the highest label.
    """
    beside = cv2.dilate(text, np.ones((3, 3), np.uint8)) > text
    pixels = np.flatnonzero(beside & (window > 0))
    steps = [dy * window.shape[1] + dx for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)]
    around = labels.ravel().take(pixels + np.array(steps)[:, None])
    highest = around.max(axis=0)
    lowest = np.where(around > 0, around, num_labels).min(axis=0)
    weights = probabilities.take(window.ravel().take(pixels))
    shared = np.flatnonzero(lowest < highest)
    sums = _sums_by_label(highest, weights, num_labels)
    return sums + _sums_by_label(lowest[shared], weights[shared], num_labels)


def _outer_contours(text: Bytes, labels: Labels, num_regions: int) -> dict[int, Contour]:
    """The outline of each region of `text` by its label, without its holes; regions inside of holes have their own.

    The outermost regions are taken away until all are found. Asked for inner outlines, OpenCV would trace each hole: 9 ms where
    an untrained network leaves twenty thousand, against 0.2.
    """
    found: dict[int, Contour] = {}
    is_left = np.ones(int(labels.max(initial=0)) + 1, np.uint8)
    while len(found) < num_regions:
        contours, _ = cv2.findContours(text, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        first = np.array([contour[0, 0] for contour in contours])
        names = labels[first[:, 1], first[:, 0]]
        found |= zip(names.tolist(), contours, strict=True)
        if len(found) < num_regions:
            is_left[names] = 0
            text = text & is_left.take(labels)
    return found


def _grown_rectangles(regions: _Regions, shrink_ratio: float, config: PostprocessConfig) -> Numbers:
    """(N, 5) the smallest rectangle around each region, given the region's area, then unclipped.

    Columns are OpenCV's: centre x and y, two sides, angle of the first side in degrees.
    """
    found = [cv2.minAreaRect(contour) for contour in regions.contours]
    rectangles = np.array([(*center, *sides, angle) for center, sides, angle in found])
    sides = rectangles[:, 2:4]
    sides += 2 * _borders(sides.prod(axis=1), 2 * sides.sum(axis=1), regions.areas)[:, None]
    area, perimeter = sides.prod(axis=1), 2 * sides.sum(axis=1)
    sides += 2 * unclip_distance(area, perimeter, shrink_ratio, config.unclip_ratio)[:, None]
    return rectangles


def _grown_outlines(regions: _Regions, shrink_ratio: float, config: PostprocessConfig) -> list[Points | None]:
    """Outlines, clockwise, simplified, given the region's area, then unclipped; None where a region is too thin for one."""
    lengths = np.array([cv2.arcLength(contour, True) for contour in regions.contours])
    tolerances = np.maximum(STAIR_STEP, config.polygon_tolerance * 2 * regions.areas / np.maximum(lengths, 1.0))
    outlines = [
        cv2.approxPolyDP(contour, tolerance, True)
        for contour, tolerance in zip(regions.contours, tolerances.tolist(), strict=True)
    ]
    area = np.array([cv2.contourArea(outline) for outline in outlines])
    perimeter = np.array([cv2.arcLength(outline, True) for outline in outlines])
    border = _borders(area, perimeter, regions.areas)
    grown_area, grown_perimeter = area + perimeter * border + 4 * border**2, perimeter + 8 * border
    distances = border + unclip_distance(grown_area, grown_perimeter, shrink_ratio, config.unclip_ratio)
    return [
        grow_polygon(outline[:, 0], distance) if len(outline) >= 4 and own_area > 0 else None
        for outline, own_area, distance in zip(outlines, area, distances.tolist(), strict=True)
    ]


def _borders(areas: Numbers, perimeters: Numbers, wanted_areas: Numbers) -> Numbers:
    """How far outside the outermost pixel centres each shape's border is, so that it has the wanted area."""
    return np.clip(distance_to_area(areas, perimeters, wanted_areas), *BORDER_RANGE)


def _corners(rectangles: Numbers) -> Points:
    """(N, 4, 2) clockwise, first edge up: the side nearest to horizontal is taken as the reading direction."""
    quarter_turns = np.rint(rectangles[:, 4] / 90)
    is_upright = quarter_turns % 2 == 0
    width, height = np.where(is_upright, rectangles[:, 2:4].T, rectangles[:, 3:1:-1].T)
    radians = np.deg2rad(rectangles[:, 4] - 90 * quarter_turns)
    cos, sin = np.cos(radians), np.sin(radians)
    along = np.stack([cos * width, sin * width], axis=1)[:, None] / 2
    down = np.stack([-sin * height, cos * height], axis=1)[:, None] / 2
    across, upright = np.array([-1, 1, 1, -1])[:, None], np.array([-1, -1, 1, 1])[:, None]
    return rectangles[:, None, :2] + across * along + upright * down


def _ordered_like(outline: Points, quad: Points) -> Points:
    """The outline from the vertex nearest to the quad's first corner."""
    first = int(np.argmin(np.square(outline - quad[0]).sum(axis=1)))
    return np.concatenate([outline[first:], outline[:first]])


def _mirrored_order(polygon: FloatArray) -> FloatArray:
    """Vertices of a mirrored polygon, turned clockwise again; a quad's first edge stays its first."""
    return np.roll(polygon[::-1], len(polygon) // 2, axis=0)
