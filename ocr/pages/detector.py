"""From the pass over a whole page to its text: a turn of the page where that finds more, and tiles where text is too small."""

from typing import NamedTuple

import numpy as np

from dali_pipelines.rendering import ImageArray, resize, resize_whole
from ocr.datasets.plan import letterbox
from ocr.pages.config import Rotations, Tile
from ocr.pages.estimate import (
    FloatArray,
    Probe,
    may_gain,
    probe_of,
    probed_heights,
    text_heights,
    tile_scale,
)
from ocr.pages.merge import LARGE_TEXT, with_large_texts
from ocr.pages.tiles import Forward, num_tiles, tiled_levels
from ocr.pages.views import turned, turned_back, turned_size
from ocr.postprocess.boxes import Detections, detect_letterboxed, detect_levels, moved_detections
from ocr.postprocess.config import PostprocessConfig
from ocr.targets.config import TargetConfig

MIN_MARGIN = 1.1
"""A turn replaces an earlier one if its lines are this many times as long. DBNet finds upside-down text equally well, and noise
must not decide."""
_TURNS = {"none": (0,), "auto": (0, 90)}


class PageText(NamedTuple):
    """The text of a page, and how the page was turned to find it."""

    detections_original: Detections
    """In pixels of the upright image."""
    rotation: int
    """Clockwise turn in degrees."""


class _View(NamedTuple):
    """The findings on a page at one turn."""

    rotation: int
    whole: Detections
    """Text of the pass over the whole page, in pixels of the turned page."""
    heights: list[FloatArray]
    """Heights of the texts of that pass and of the probe, (n,) each, in pixels of the page."""
    along: float
    """Length of the lines that run along the turned page's rows, weighted by score."""
    along_probe: float
    """The same of the texts in the probe; 0: too few to tell."""


class PageDetector:
    """Looks closer at a page than the pass over the whole of it. Threads may share it; it keeps nothing of a page.

    Args:
        tile, rotations: see `ocr.pages.config`.
        image_size: side of the network's input.
        batch_size: tiles per forward pass.
        postprocess, targets: settings that turn maps into polygons.
        forward: the network.
    """

    def __init__(
        self,
        tile: Tile,
        rotations: Rotations,
        *,
        image_size: int,
        batch_size: int,
        postprocess: PostprocessConfig,
        targets: TargetConfig,
        forward: Forward,
    ) -> None:
        self._tile, self._rotations = tile, rotations
        self._image_size, self._batch_size = image_size, batch_size
        self._postprocess, self._targets = postprocess, targets
        self._forward = forward

    def looks_closer(self, original_size: tuple[int, int]) -> bool:
        """Returns whether a page of (H, W) pixels may need more than the pass over the whole of it, and so its pixels."""
        return self._rotations != "none" or self._may_tile(original_size)

    def detect(self, original: ImageArray, whole: Detections) -> PageText:
        """Returns the text of a page.

        Args:
            original: (H, W, 3) RGB levels, upright.
            whole: text of the pass over the whole page, in pixels of the upright image. It is the result if the page needs neither
                a turn nor tiles.
        """
        size = original.shape[:2]
        probe = probe_of(original, self._image_size) if self._needs_probe(size) else None
        view = self._best_view(original, whole, probe)
        scale = self._scale(view, size)
        if scale is None:
            return PageText(turned_back(view.whole, view.rotation, size), view.rotation)
        tiled = self._tiled(original, view.rotation, scale)
        found = with_large_texts(tiled, view.whole, LARGE_TEXT / scale)
        return PageText(turned_back(found, view.rotation, size), view.rotation)

    def _may_tile(self, size: tuple[int, int]) -> bool:
        if isinstance(self._tile, int):
            return max(size) > self._tile
        return self._tile == "auto" and may_gain(size, self._image_size)

    def _needs_probe(self, size: tuple[int, int]) -> bool:
        return (self._tile == "auto" or self._rotations != "none") and self._may_tile(size)

    def _best_view(self, original: ImageArray, whole: Detections, probe: Probe | None) -> _View:
        """Returns the view with the longest lines along its rows; an earlier one unless a later one's are clearly longer.

        DBNet finds blobs in text on its side, most of them wider than high. So the shapes at one turn tell nothing, but the lengths
        at two turns do.
        """
        rotations: tuple[int, ...] = self._rotations if isinstance(self._rotations, tuple) else _TURNS[self._rotations]
        others = [rotation for rotation in rotations if rotation != 0]
        views = {view.rotation: view for view in self._turned_views(original, others, probe)} if others else {}
        if 0 in rotations:
            views[0] = self._view(0, whole, probe)
        # If the probe has text, that of the whole page may be too small to count.
        is_probed = any(view.along_probe > 0 for view in views.values())
        best = views[rotations[0]]
        for rotation in rotations[1:]:
            lengths = [view.along_probe if is_probed else view.along for view in (views[rotation], best)]
            if lengths[0] > MIN_MARGIN * lengths[1]:
                best = views[rotation]
        return best

    def _turned_views(self, original: ImageArray, rotations: list[int], probe: Probe | None) -> list[_View]:
        """Returns the views of the page at turns other than 0, from one forward pass of their own each."""
        size = original.shape[:2]
        plan = letterbox([0], [size], self._image_size)[0]
        shown = resize_whole(original, plan.region_xyxy, plan.resized_size)
        views = []
        for rotation in rotations:
            view_size = turned_size(size, rotation)
            sample = letterbox([0], [view_size], self._image_size)[0]
            levels = self._forward([turned(shown, rotation)])[0]
            whole = detect_letterboxed(levels, sample, view_size, self._postprocess, self._targets)
            views.append(self._view(rotation, whole, probe))
        return views

    def _view(self, rotation: int, whole: Detections, probe: Probe | None) -> _View:
        heights = [text_heights(whole)]
        along_probe = 0.0
        if probe is not None:
            seen = probe.turned(rotation)
            found = self._detected(self._forward([seen.image])[0], self._postprocess)
            heights.append(probed_heights(found, seen))
            along_probe = _length_along(found) if len(heights[-1]) else 0.0
        return _View(rotation, whole, heights, _length_along(whole), along_probe)

    def _scale(self, view: _View, size: tuple[int, int]) -> float | None:
        """Returns the scale of the tiles; None: the page is seen as a whole."""
        if not self._may_tile(size):
            return None
        if isinstance(self._tile, int):
            return self._image_size / self._tile
        return tile_scale(view.heights, size, self._image_size)

    def _tiled(self, original: ImageArray, rotation: int, scale: float) -> Detections:
        """Returns the text of the tiles in pixels of the turned page."""
        height, width = original.shape[:2]
        shown_size = (max(1, round(height * scale)), max(1, round(width * scale)))
        writable = np.require(original, requirements="W")  # PyTorch warns about read-only arrays
        shown = original if shown_size == (height, width) else resize(writable, shown_size)
        page = turned(shown, rotation)
        stride = self._targets.map_stride
        levels = tiled_levels(page, self._image_size, stride, self._batch_size, self._forward)
        number = num_tiles(page.shape[:2], self._image_size, stride) * self._postprocess.max_candidates
        found = self._detected(levels, self._postprocess.model_copy(update={"max_candidates": number}))
        view_size = turned_size((height, width), rotation)
        view_from_shown = np.diag([view_size[1] / page.shape[1], view_size[0] / page.shape[0], 1.0])
        return moved_detections(found, view_from_shown, view_size)

    def _detected(self, levels: np.ndarray, postprocess: PostprocessConfig) -> Detections:
        targets = self._targets
        return detect_levels(
            levels, map_stride=targets.map_stride, shrink_ratio=targets.shrink_ratio, config=postprocess
        )


def _length_along(detections: Detections) -> float:
    """Returns how much longer than high the texts that are so are, in sum and weighted by score."""
    sides = np.array([np.ptp(polygon, axis=0) for polygon in detections.polygons]).reshape(-1, 2)
    return float(detections.scores @ (sides[:, 0] - sides[:, 1]).clip(0))
