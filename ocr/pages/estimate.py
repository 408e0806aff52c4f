"""Estimates the height of the text on a page, and the scale at which tiles show it well.

The pass over the whole page cannot tell: where text is too small, DBNet finds nothing, or joins lines to blobs. So pages with
clearly more pixels than the network's input are probed: four cut-outs where the page has most detail, two with all its pixels and
two halfway to the whole page, lie side by side in one small input. Its forward pass costs a quarter of that of a page.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from dali_pipelines.rendering import ImageArray, resize
from ocr.pages.views import turned
from ocr.pages.windows import NETWORK_STRIDE
from ocr.postprocess.boxes import Detections

FloatArray = npt.NDArray[np.float32]

SMALL_TEXT = 8.0
"""Text lower than this in the network's input is often missed, in pixels."""
SEEN_TEXT = 16.0
"""Height that tiles give the smaller text of a page, in pixels of the network's input, unless the page itself has fewer pixels."""
SMALLER_TEXT = 10
"""The smaller text of a page: this percentile of the heights. It leaves out single specks."""
MIN_GAIN = 1.25
"""Tiles have to show text at least this many times as high as the whole page does."""
ENOUGH_TEXTS = 3
"""Fewest texts in a probe that tell a height."""
MIN_CUT = 128
"""Smallest side of a cut-out, in pixels of the probe."""
_CUT_MARGIN = 4
"""Texts that come so close to the upper or lower border of a cut-out are cut, in pixels of the probe."""
_LINE_STEP = 4
"""Detail is measured on every fourth line of pixels."""


class Probe(NamedTuple):
    """Four cut-outs of a page in one image."""

    image: ImageArray
    """(side, side, 3), a cut-out in each quarter; black where a page is smaller."""
    scales: FloatArray
    """(2, 2) pixels of the image per pixel of the page, of each quarter."""

    def turned(self, rotation: int) -> "Probe":
        """Returns the probe turned clockwise by 0, 90, 180 or 270 degrees."""
        return Probe(turned(self.image, rotation), np.rot90(self.scales, -rotation // 90))


def may_gain(size: tuple[int, int], image_size: int) -> bool:
    """Returns whether a page of (H, W) pixels has clearly more pixels than the network's input shows."""
    return max(size) > MIN_GAIN * image_size


def text_heights(detections: Detections) -> FloatArray:
    """Returns (N,) heights of texts: the shorter side of the smallest rectangle around each, in pixels of the detections' frame."""
    return np.array([min(cv2.minAreaRect(polygon)[1]) for polygon in detections.polygons], np.float32)


def tile_scale(heights: Sequence[FloatArray], size: tuple[int, int], image_size: int) -> float | None:
    """Returns the scale of the tiles, in pixels of a tile per pixel of the page; None: the page is better seen as a whole.

    Args:
        heights: heights of texts in pixels of the page, (n,) of each pass; the pass with the smallest text counts.
        size: (H, W) of the page.
    """
    whole_scale = image_size / max(size)
    smaller = min((float(np.percentile(found, SMALLER_TEXT)) for found in heights if len(found)), default=np.inf)
    if smaller * whole_scale >= SMALL_TEXT:
        return None
    scale = min(1.0, SEEN_TEXT / smaller)
    return scale if scale >= MIN_GAIN * whole_scale else None


def probe_of(page: ImageArray, image_size: int) -> Probe:
    """Returns the cut-outs of a page (H, W, 3) with most detail, half as large as the network's input."""
    probe_size = min(max(image_size // 2, 2 * MIN_CUT), image_size) // NETWORK_STRIDE * NETWORK_STRIDE
    cut = probe_size // 2
    halfway = math.sqrt(min(image_size / max(page.shape), 1.0))
    detail = _detail(page)
    image = np.zeros((2 * cut, 2 * cut, 3), np.uint8)
    for row, scale in enumerate((1.0, halfway)):
        side = round(cut / scale)
        for column, (top, left) in enumerate(_most_detailed(detail, page.shape[:2], side)):
            part = page[top : top + side, left : left + side].copy()
            height, width = (max(1, min(cut, round(length * scale))) for length in part.shape[:2])
            seen = part if part.shape[:2] == (height, width) else resize(part, (height, width))
            image[row * cut : row * cut + height, column * cut : column * cut + width] = seen
    return Probe(image, np.array([[1.0, 1.0], [halfway, halfway]], np.float32))


def probed_heights(detections_probe: Detections, probe: Probe) -> FloatArray:
    """Returns (n,) heights in pixels of the page of the texts in a probe whose lines run along its rows.

    Those that a cut-out cuts lengthwise, or to a piece higher than long, are left out. With too few texts there is no height.
    """
    cut = len(probe.image) // 2
    heights = []
    for polygon, height in zip(detections_probe.polygons, text_heights(detections_probe), strict=True):
        column, row = (polygon.mean(axis=0) >= cut).astype(int)
        low, high = polygon[:, 1].min() - row * cut, polygon[:, 1].max() - row * cut
        is_line = np.ptp(polygon[:, 0]) >= high - low
        if is_line and low >= _CUT_MARGIN and high <= cut - _CUT_MARGIN:
            heights.append(height / probe.scales[row, column])
    return np.array(heights if len(heights) >= ENOUGH_TEXTS else [], np.float32)


def _detail(page: ImageArray) -> FloatArray:
    """Returns the differences between horizontal neighbours in every fourth line, (H / 4, W), of the green channel."""
    lines = np.ascontiguousarray(page[::_LINE_STEP, :, 1])
    neighbours = np.concatenate([lines[:, 1:], lines[:, -1:]], axis=1)
    return cv2.absdiff(lines, neighbours).astype(np.float32)


def _most_detailed(detail: FloatArray, size: tuple[int, int], side: int) -> Sequence[tuple[int, int]]:
    """Returns the (top, left) of the two squares of a grid with most detail, or of the only one, in pixels of the page."""
    counts = [max(1, length // side) for length in size]
    sums = cv2.resize(detail, (counts[1], counts[0]), interpolation=cv2.INTER_AREA)
    places = []
    for cell in np.argsort(-sums.ravel(), kind="stable")[:2]:
        centres = [
            (index + 0.5) * length / number
            for index, length, number in zip(divmod(int(cell), counts[1]), size, counts, strict=True)
        ]
        top, left = (
            int(np.clip(centre - side / 2, 0, max(length - side, 0)))
            for centre, length in zip(centres, size, strict=True)
        )
        places.append((top, left))
    return places
