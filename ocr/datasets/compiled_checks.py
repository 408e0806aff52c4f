"""Finds the images whose annotations are surely in order, in one compiled pass over many images.

`ocr.datasets.annotation_checks` names what is wrong, one image at a time. Nearly all images of a data set have nothing wrong, so
this pass tells them apart first. It may call a sound image doubtful, but never the reverse: where rounding could decide, the image
is doubtful.
"""

import numpy as np
import numpy.typing as npt

from dali_pipelines.compiled import compiled

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

_ROUNDING = 1e-12
"""Bound of the relative rounding error of a cross product of differences; the true one is below 1e-15."""
_MAX_VERTICES = 400
"""Polygons with more are doubtful: each pair of edges is compared."""
_CLEAR_AREA = 5.0
"""Square pixels, far above the smallest area that passes the checks, and more than that of any polygon whose coordinates are parts
of the image's size."""
_CLEARLY_INSIDE = 0.5
"""Distance in pixels from the image's edge of a vertex that is inside in spite of all rounding."""


@compiled
def distinct_vertices(points: Float64, point_starts: Int64) -> Flags:
    """Returns (V,) flags of the points that `AnnotatedWord.distinct_points` keeps.

    Args:
        points: (V, 2).
        point_starts: (W + 1,) word w has points[point_starts[w]:point_starts[w + 1]].
    """
    differs = np.empty(len(points), np.bool_)
    for word in range(len(point_starts) - 1):
        first, end = point_starts[word], point_starts[word + 1]
        any_differs = False
        for i in range(first, end):
            before = i - 1 if i > first else end - 1
            differs[i] = points[i, 0] != points[before, 0] or points[i, 1] != points[before, 1]
            any_differs = any_differs or differs[i]
        if not any_differs and end > first:
            differs[first] = True
    return differs


@compiled
def surely_sound_words(
    ring_points: Float64,
    ring_bits: Int64,
    ring_starts: Int64,
    word_starts: Int64,
    sizes: Int64,
    max_coordinate: float,
    overhang: float,
) -> Flags:
    """Returns (N,) whether all words of an image are surely free of findings, apart from the frame.

    Args:
        ring_points: (V, 2) distinct points of all words.
        ring_bits: (V, 2) the same float64 numbers as integers of the same bits.
        ring_starts: (W + 1,).
        word_starts: (N + 1,).
        sizes: (N, 2) (H, W) of the images, in the frame of the points.
        max_coordinate: largest coordinate.
        overhang: pixels that a polygon may extend beyond the image without a finding.
    """
    sound = np.zeros(len(word_starts) - 1, np.bool_)
    for image in range(len(sound)):
        first, end = word_starts[image], word_starts[image + 1]
        codes = np.empty(end - first, np.uint64)
        is_sound = True
        for word in range(first, end):
            ring = ring_points[ring_starts[word] : ring_starts[word + 1]]
            if not _is_surely_sound(ring, sizes[image, 0], sizes[image, 1], max_coordinate, overhang):
                is_sound = False
                break
            codes[word - first] = _code(ring_bits[ring_starts[word] : ring_starts[word + 1]])
        if is_sound:
            codes.sort()
            for i in range(1, len(codes)):
                if codes[i] == codes[i - 1]:  # the same polygon, or by a rare chance another
                    is_sound = False
        sound[image] = is_sound
    return sound


@compiled
def fit_images(points: Float64, point_starts: Int64, word_starts: Int64, sizes: Int64, slack_share: float) -> Flags:
    """Returns (N,) whether all points of an image lie within it, give or take this share of its longer side; NaN does not."""
    fit = np.ones(len(word_starts) - 1, np.bool_)
    for image in range(len(fit)):
        height, width = sizes[image]
        slack = slack_share * max(height, width)
        for i in range(point_starts[word_starts[image]], point_starts[word_starts[image + 1]]):
            x, y = points[i, 0], points[i, 1]
            if not (x >= -slack and y >= -slack and x <= width + slack and y <= height + slack):
                fit[image] = False
    return fit


@compiled
def _code(bits: Int64) -> np.uint64:
    """Returns a number that depends on the points alone, not on the first point or the direction."""
    total = np.uint64(0)
    for i in range(len(bits)):
        code = np.uint64(bits[i, 0]) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(bits[i, 1])
        code = (code ^ (code >> np.uint64(31))) * np.uint64(0xBF58476D1CE4E5B9)
        total += code ^ (code >> np.uint64(29))
    return total


@compiled
def _is_surely_sound(ring: Float64, height: int, width: int, max_coordinate: float, overhang: float) -> bool:
    """Returns whether one polygon surely has an area, does not cross itself, and lies within the image."""
    count = len(ring)
    if count < 3 or count > _MAX_VERTICES:
        return False
    left = right = ring[0, 0]
    top = bottom = ring[0, 1]
    is_anchored = False
    doubled_area = 0.0
    for i in range(count):
        x, y = ring[i, 0], ring[i, 1]
        if not (abs(x) <= max_coordinate and abs(y) <= max_coordinate):
            return False
        left, right, top, bottom = min(left, x), max(right, x), min(top, y), max(bottom, y)
        is_anchored = is_anchored or (
            _CLEARLY_INSIDE < x < width - _CLEARLY_INSIDE and _CLEARLY_INSIDE < y < height - _CLEARLY_INSIDE
        )
        after = i + 1 if i + 1 < count else 0
        doubled_area += (x - ring[0, 0]) * (ring[after, 1] - ring[0, 1]) - (ring[after, 0] - ring[0, 0]) * (
            y - ring[0, 1]
        )
    extent = max(right - left, bottom - top)
    if not abs(doubled_area) > 2 * _CLEAR_AREA + 1e-9 * extent * extent:
        return False
    beyond = max(max(-left, -top), max(right - width, bottom - height))
    if beyond > overhang or (beyond > 0 and not is_anchored):
        return False
    return _is_surely_simple(ring)


@compiled
def _turn(ring: Float64, a: int, b: int, c: int) -> int:
    """Returns 1 or -1 for the side of the line from a to b that c surely lies on; 0 where rounding could decide."""
    one = (ring[b, 0] - ring[a, 0]) * (ring[c, 1] - ring[a, 1])
    other = (ring[b, 1] - ring[a, 1]) * (ring[c, 0] - ring[a, 0])
    bound = _ROUNDING * (abs(one) + abs(other))
    return 1 if one - other > bound else -1 if one - other < -bound else 0


@compiled
def _is_surely_simple(ring: Float64) -> bool:
    """Returns whether the outline surely neither crosses nor touches itself."""
    count = len(ring)
    num_left = num_right = 0
    for i in range(count):
        turn = _turn(ring, i, (i + 1) % count, (i + 2) % count)
        num_left += turn == 1
        num_right += turn == -1
        if turn == 0:
            j, k = (i + 1) % count, (i + 2) % count
            ahead = (ring[j, 0] - ring[i, 0]) * (ring[k, 0] - ring[j, 0])
            ahead += (ring[j, 1] - ring[i, 1]) * (ring[k, 1] - ring[j, 1])
            if not ahead > 0:  # the outline turns back
                return False
    if count <= 4 and (num_left == count or num_right == count):
        return True  # up to four turns to the same side make one revolution: a convex polygon
    for i in range(count):
        i_end = (i + 1) % count
        for j in range(i + 2, count):
            j_end = (j + 1) % count
            if j_end == i:
                continue
            if max(ring[i, 0], ring[i_end, 0]) < min(ring[j, 0], ring[j_end, 0]):
                continue
            if max(ring[j, 0], ring[j_end, 0]) < min(ring[i, 0], ring[i_end, 0]):
                continue
            if max(ring[i, 1], ring[i_end, 1]) < min(ring[j, 1], ring[j_end, 1]):
                continue
            if max(ring[j, 1], ring[j_end, 1]) < min(ring[i, 1], ring[i_end, 1]):
                continue
            if _turn(ring, i, i_end, j) * _turn(ring, i, i_end, j_end) == 1:
                continue
            if _turn(ring, j, j_end, i) * _turn(ring, j, j_end, i_end) == 1:
                continue
            return False
    return True
