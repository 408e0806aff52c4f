"""Joins the text of a page's tiles with large text that only the pass over the whole page sees whole.

A headline may be too high for a tile: the network sees parts of it, or nothing. The whole page shows it at a height that suits the
network.
"""

import cv2
import numpy as np
import numpy.typing as npt

from ocr.pages.estimate import text_heights
from ocr.postprocess.boxes import Detections

LARGE_TEXT = 64.0
"""Height from which on the whole page's text is looked at, in pixels of a tile."""
_PART_HEIGHT = 0.5
"""Lowest part of a large text, as a fraction of its height; anything lower inside it is text of its own."""
_INSIDE = 0.5
"""A text lies inside another with this fraction of its area."""
_SAME = 0.5
"""Two texts are the same from this IoU on."""
_TOUCHING = 0.05
"""Texts that share less than this fraction of the smaller one's area are apart."""

Flags = npt.NDArray[np.bool_]


def with_large_texts(tiled: Detections, whole: Detections, min_height: float) -> Detections:
    """Returns the text of the tiles, with a large text of the whole page in the place of its parts, best first.

    A large text is added if the tiles have only parts of it or nothing. It is left out where they have the same text, or smaller
    text inside it.

    Args:
        tiled, whole: in pixels of the page.
        min_height: height from which on a text is large, in pixels of the page.
    """
    whole_heights = text_heights(whole)
    candidates = np.flatnonzero(whole_heights >= min_height).tolist()
    if not candidates:
        return tiled
    polygons, scores = tiled.polygons, tiled.scores.tolist()
    hulls, heights = [cv2.convexHull(polygon) for polygon in polygons], text_heights(tiled)
    is_kept = np.ones(len(polygons), np.bool_)
    added: list[int] = []
    for index in candidates:
        large = whole.polygons[index]
        parts = _parts(large, float(whole_heights[index]), hulls, heights)
        others = [cv2.convexHull(whole.polygons[other]) for other in added]
        if parts is not None and not _shared(large, others)[0].any():
            is_kept[parts] = False
            added.append(index)
    if not added:
        return tiled
    kept = np.flatnonzero(is_kept).tolist()
    joined = [*(polygons[place] for place in kept), *(whole.polygons[index] for index in added)]
    joined_scores = np.array([*(scores[place] for place in kept), *whole.scores[added]], np.float32)
    order = np.argsort(-joined_scores, kind="stable").tolist()
    found = Detections.from_polygons([joined[place] for place in order], joined_scores[order])
    return Detections(found.vertices, found.vertex_starts, found.scores, tiled.num_cut)


def _parts(
    large: npt.NDArray[np.float32],
    height: float,
    hulls: list[npt.NDArray[np.float32]],
    heights: npt.NDArray[np.float32],
) -> Flags | None:
    """Returns flags of the texts that are parts of a large one; None: it is one of them, or has text of its own inside."""
    shares, ious = _shared(large, hulls)
    is_part = (shares >= _INSIDE) & (heights >= _PART_HEIGHT * height)
    return None if (ious >= _SAME).any() or (shares[~is_part] >= _TOUCHING).any() else is_part


def _shared(
    polygon: npt.NDArray[np.float32], hulls: list[npt.NDArray[np.float32]]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Returns (N,) the share of each hull's area that lies in the hull of the polygon, and the IoU of the two; 0 where they are
    apart."""
    shares, ious = np.zeros(len(hulls)), np.zeros(len(hulls))
    own = cv2.convexHull(polygon)
    low, high = own.min(axis=(0, 1)), own.max(axis=(0, 1))
    own_area = cv2.contourArea(own)
    for place, hull in enumerate(hulls):
        if (hull.max(axis=(0, 1)) <= low).any() or (hull.min(axis=(0, 1)) >= high).any():
            continue
        common, area = cv2.intersectConvexConvex(own, hull)[0], cv2.contourArea(hull)
        shares[place] = common / area if area else 0.0
        ious[place] = common / (own_area + area - common)
    return shares, ious
