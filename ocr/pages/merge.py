"""Joins the text of a page's tiles with large text that only the pass over the whole page sees whole.

A headline may be too high for a tile: the network sees parts of it, or nothing. The whole page shows it at a height that suits the
network.
"""

from typing import NamedTuple

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
    polygons, scores, whole_polygons = tiled.polygons, tiled.scores.tolist(), whole.polygons
    hulls, heights = _hulls(polygons), text_heights(tiled)
    large = _hulls([whole_polygons[index] for index in candidates])
    is_kept = np.ones(len(polygons), np.bool_)
    added: list[int] = []
    for place, index in enumerate(candidates):
        own = large.only([place])
        parts = _parts(own, float(whole_heights[index]), hulls, heights)
        if parts is not None and not _shared(own, large.only(added))[0].any():
            is_kept[parts] = False
            added.append(place)
    if not added:
        return tiled
    kept, indices = np.flatnonzero(is_kept).tolist(), [candidates[place] for place in added]
    joined = [*(polygons[place] for place in kept), *(whole_polygons[index] for index in indices)]
    joined_scores = np.array([*(scores[place] for place in kept), *whole.scores[indices]], np.float32)
    order = np.argsort(-joined_scores, kind="stable").tolist()
    found = Detections.from_polygons([joined[place] for place in order], joined_scores[order])
    return Detections(found.vertices, found.vertex_starts, found.scores, tiled.num_cut)


class _Hulls(NamedTuple):
    """Convex hulls of N texts, with their bounding boxes and areas."""

    outlines: list[npt.NDArray[np.float32]]
    lows: npt.NDArray[np.float32]
    """(N, 2), (x, y)."""
    highs: npt.NDArray[np.float32]
    """(N, 2), (x, y)."""
    areas: npt.NDArray[np.float64]
    """(N,)."""

    def only(self, places: list[int]) -> "_Hulls":
        """Returns the hulls at these places."""
        outlines = [self.outlines[place] for place in places]
        return _Hulls(outlines, self.lows[places], self.highs[places], self.areas[places])


def _hulls(polygons: list[npt.NDArray[np.float32]]) -> _Hulls:
    outlines = [cv2.convexHull(polygon) for polygon in polygons]
    return _Hulls(
        outlines,
        np.array([outline.min(axis=(0, 1)) for outline in outlines], np.float32).reshape(-1, 2),
        np.array([outline.max(axis=(0, 1)) for outline in outlines], np.float32).reshape(-1, 2),
        np.array([cv2.contourArea(outline) for outline in outlines], np.float64),
    )


def _parts(large: _Hulls, height: float, hulls: _Hulls, heights: npt.NDArray[np.float32]) -> Flags | None:
    """Returns flags of the texts that are parts of a large one; None: it is one of them, or has text of its own inside.

    Args:
        large: the hull of the large text alone.
    """
    shares, ious = _shared(large, hulls)
    is_part = (shares >= _INSIDE) & (heights >= _PART_HEIGHT * height)
    return None if (ious >= _SAME).any() or (shares[~is_part] >= _TOUCHING).any() else is_part


def _shared(large: _Hulls, hulls: _Hulls) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Returns (N,) the share of each hull's area that lies in the only one of `large`, and the IoU of the two; 0 where they are
    apart."""
    shares, ious = np.zeros(len(hulls.outlines)), np.zeros(len(hulls.outlines))
    is_near = ((hulls.highs > large.lows) & (hulls.lows < large.highs)).all(axis=1)
    for place in np.flatnonzero(is_near).tolist():
        common, area = cv2.intersectConvexConvex(large.outlines[0], hulls.outlines[place])[0], hulls.areas[place]
        shares[place] = common / area if area else 0.0
        ious[place] = common / (large.areas[0] + area - common)
    return shares, ious
