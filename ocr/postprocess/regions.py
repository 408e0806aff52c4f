"""Finds the connected regions of a map, with their borders, areas and scores.

A receipt has a hundred regions, and the map of an untrained network a hundred thousand. So compiled passes, which release the GIL,
go over the pixels and measure all regions together. Python creates one object per region that is kept: its contour from OpenCV.
"""

import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from dali_pipelines.compiled import compiled
from ocr.postprocess.config import PostprocessConfig
from ocr.postprocess.levels import FIRST_TEXT_LEVEL, Levels, probabilities_of_levels

Numbers = npt.NDArray[np.float64]
Bytes = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int32]
Bools = npt.NDArray[np.bool_]
Contour = npt.NDArray[np.int32]
"""(n, 1, 2) border pixels of a region, in OpenCV's form: (x, y) indices."""

MARGIN = 2
"""Width in pixels of the frame around the text that is processed: its soft border and the neighbours of that border."""
BESIDE, TEXT = 1, 2
"""Marks of the pixels beside a region and in it."""
WORD = 8
"""Pixels that the compiled passes test at once; most words of a map are empty."""
SUMMED_AT_ONCE = 128
"""Longest run of numbers that NumPy adds up without splitting it."""


class Regions(NamedTuple):
    """The N connected regions of a map that may become polygons, best scored first."""

    contours: list[Contour]
    """Border of each region, as indices in the map."""
    areas: Numbers
    """(N,) expected number of text pixels: the sum of the probabilities in and beside each region."""
    scores: Numbers
    """(N,) mean probability of each region's pixels."""
    num_cut: int
    """Regions of at least `box_thresh` that were left out only because there are more than `max_candidates`."""
    num_below: int = 0
    """The last regions, which score below `box_thresh`."""


class _Window(NamedTuple):
    """The part of a map that contains all text, and `MARGIN` pixels around it; those outside the map have level 0."""

    levels: Levels
    text: Bytes
    """1 for text pixels."""
    corner: tuple[int, int]
    """(x, y) in the map."""


class _Scratch(threading.local):
    """Arrays of a thread that serve one map after the other.

    New arrays would cost a page fault per 4 KiB, a third of the time at 1600 px, and freeing them holds the GIL.
    """

    def __init__(self) -> None:
        self._buffers: dict[str, Bytes] = {}

    def array(self, name: str, shape: tuple[int, ...], dtype: type[np.generic] = np.uint8) -> npt.NDArray[Any]:
        """Returns the contiguous array of a name, with any content; it is valid until the next call with this name."""
        num_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if name not in self._buffers or len(self._buffers[name]) < num_bytes:
            self._buffers[name] = np.empty(num_bytes, np.uint8)
        return self._buffers[name][:num_bytes].view(dtype).reshape(shape)


_SCRATCH = _Scratch()
_SQUARE = np.ones((3, 3), np.uint8)


def best_regions(levels: Levels, config: PostprocessConfig, *, with_below: bool) -> Regions:
    """Returns the regions with a score of at least `box_thresh`, at most `max_candidates`, best first.

    Args:
        levels: (Hm, Wm) from `to_levels` with the `bin_thresh` of `config`.
        with_below: the regions below `box_thresh` follow, as far as `max_candidates` has room for them.
    """
    window = _text_window(levels)
    # Without OpenCV's statistics this takes 0.4 ms for 840,000 pixels, with them 3.5 ms (OpenCV 5.0, one thread).
    shape = window.text.shape
    num_labels, labels = cv2.connectedComponentsWithAlgorithm(
        window.text, 8, cv2.CV_32S, cv2.CCL_BBDT, labels=_SCRATCH.array("labels", shape, np.int32)
    )
    marks = cv2.dilate(window.text, _SQUARE, dst=_SCRATCH.array("marks", shape))
    np.add(marks, window.text, out=marks)
    probabilities = probabilities_of_levels(config.bin_thresh)
    sums, counts, fringes = _measure_regions(window.levels, marks, labels, probabilities, num_labels)
    scores = sums / np.maximum(counts, 1)
    by_score = 1 + np.argsort(-scores[1:], kind="stable")
    num_above = int(np.count_nonzero(scores[by_score] >= config.box_thresh))
    best = by_score[: config.max_candidates if with_below else min(num_above, config.max_candidates)]
    text = window.text
    if len(best) < num_labels - 1:
        is_best = np.zeros(num_labels, np.bool_)
        is_best[best] = True
        text = _with_regions(text, labels, is_best)
    contours = _outer_contours(text, labels, best, window.corner)
    num_cut, num_below = max(num_above - len(best), 0), max(len(best) - num_above, 0)
    return Regions(contours, (sums + fringes)[best], scores[best], num_cut, num_below)


def _text_window(levels: Levels) -> _Window:
    height, width = levels.shape
    bordered = _SCRATCH.array("bordered", (height + 2 * MARGIN, width + 2 * MARGIN))
    cv2.copyMakeBorder(levels, MARGIN, MARGIN, MARGIN, MARGIN, cv2.BORDER_CONSTANT, dst=bordered, value=0)
    is_text = _SCRATCH.array("text", bordered.shape, np.bool_)
    left, top, width, height = cv2.boundingRect(_text_pixels(bordered, is_text))
    left, top = max(left - MARGIN, 0), max(top - MARGIN, 0)
    part = bordered[top : top + height + 2 * MARGIN, left : left + width + 2 * MARGIN]
    window = _SCRATCH.array("window", part.shape)
    np.copyto(window, part)
    text = _text_pixels(window, _SCRATCH.array("text", part.shape, np.bool_))
    return _Window(window, text, (left - MARGIN, top - MARGIN))


def _text_pixels(levels: Levels, out: npt.NDArray[Any]) -> Bytes:
    return np.greater_equal(levels, FIRST_TEXT_LEVEL, out=out).view(np.uint8)


def _outer_contours(
    text: Bytes, labels: Labels, wanted: npt.NDArray[np.int64], corner: tuple[int, int]
) -> list[Contour]:
    """Returns the outer outline of each wanted region, including regions inside the holes of others.

    The outermost regions are removed until all are found. If OpenCV were to return inner outlines, it would trace every hole: 9 ms
    instead of 0.2 ms for the twenty thousand holes of an untrained network.

    Args:
        text: 1 for the pixels of the wanted regions.
        wanted: their labels.
        corner: (x, y) of the window in the map, which is added to the points.
    """
    contours: list[Contour] = []
    names: list[npt.NDArray[np.int32]] = []
    while len(contours) < len(wanted):
        outermost, _ = cv2.findContours(text, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE, offset=corner)
        names.append(_labels_of(outermost, labels, corner))
        contours += outermost
        if len(contours) < len(wanted):
            is_left = np.ones(int(labels.max()) + 1, np.bool_)
            is_left[np.concatenate(names)] = False
            text = _with_regions(text, labels, is_left)
    if not contours:
        return []
    place_of_label = np.empty(int(labels.max()) + 1, np.int64)
    place_of_label[np.concatenate(names)] = np.arange(len(contours))
    return [contours[place] for place in place_of_label[wanted].tolist()]


def _labels_of(contours: Sequence[Contour], labels: Labels, corner: tuple[int, int]) -> npt.NDArray[np.int32]:
    """Returns the label of each contour's region, read at the contour's first point."""
    points = np.concatenate(contours)[:, 0]
    ends = np.cumsum([len(contour) for contour in contours])
    x, y = points[np.concatenate([[0], ends[:-1]])].T
    return labels[y - corner[1], x - corner[0]]


@compiled
def _measure_regions(
    levels: Levels, marks: Bytes, labels: Labels, probabilities: Numbers, num_labels: int
) -> tuple[Numbers, Numbers, Numbers]:
    """Returns three arrays (num_labels,), by label: sum of a region's probabilities, number of its pixels, and sum beside it.

    A pixel beside two regions, in their soft borders, counts for both. Between more than two, it counts for those with the lowest
    and the highest label.

    Args:
        levels, marks, labels: (H, W) of the window, which has no text within `MARGIN` of its border. Marks are `TEXT` in a region,
            `BESIDE` next to one, otherwise 0.
        probabilities: (256,) of the levels.
    """
    width, num_pixels = levels.shape[1], levels.size
    level_of, mark_of, label_of = levels.ravel(), marks.ravel(), labels.ravel()
    words = mark_of[: num_pixels // WORD * WORD].view(np.uint64)
    sums, counts = np.zeros(num_labels), np.zeros(num_labels)
    of_highest, of_lowest = np.zeros(num_labels), np.zeros(num_labels)
    run, length, label_of_run = np.empty(num_pixels), 0, 0
    for first in range(0, num_pixels, WORD):
        if first // WORD < len(words) and words[first // WORD] == 0:
            continue
        for pixel in range(first, min(first + WORD, num_pixels)):
            if mark_of[pixel] == TEXT:
                if label_of[pixel] != label_of_run:
                    sums[label_of_run] += _sum_of_run(run, length)
                    counts[label_of_run] += length
                    label_of_run, length = label_of[pixel], 0
                run[length] = probabilities[level_of[pixel]]
                length += 1
            elif mark_of[pixel] == BESIDE and level_of[pixel] > 0:
                lowest, highest = num_labels, 0
                for row in (pixel - width, pixel, pixel + width):
                    for around in (row - 1, row, row + 1):
                        highest = max(highest, label_of[around])
                        if label_of[around] > 0:
                            lowest = min(lowest, label_of[around])
                weight = probabilities[level_of[pixel]]
                of_highest[highest] += weight
                if lowest < highest:
                    of_lowest[lowest] += weight
    sums[label_of_run] += _sum_of_run(run, length)
    counts[label_of_run] += length
    return sums, counts, of_highest + of_lowest


@compiled
def _sum_of_run(run: Numbers, length: int) -> float:
    """Returns the sum of the first numbers, added in the order of `np.add.reduceat`: ties between scores depend on the last bit."""
    if length == 0:
        return 0.0
    return run[0] + _pairwise_sum(run[1:length])


@compiled
def _pairwise_sum(numbers: Numbers) -> float:
    """Returns the sum, added in NumPy's order: in eight interleaved columns, and in halves if there are many numbers."""
    number = len(numbers)
    total = 0.0
    if number < 8:
        for value in numbers:
            total += value
        return total
    if number > SUMMED_AT_ONCE:
        half = number // 2 - number // 2 % 8
        return _pairwise_sum(numbers[:half]) + _pairwise_sum(numbers[half:])
    columns = numbers[:8].copy()
    whole = number - number % 8
    for start in range(8, whole, 8):
        for column in range(8):
            columns[column] += numbers[start + column]
    total = ((columns[0] + columns[1]) + (columns[2] + columns[3])) + (
        (columns[4] + columns[5]) + (columns[6] + columns[7])
    )
    for value in numbers[whole:]:
        total += value
    return total


@compiled
def _with_regions(text: Bytes, labels: Labels, is_kept: Bools) -> Bytes:
    """Returns the text pixels of the regions flagged in (num_labels,)."""
    kept = text.copy()
    text_of, label_of, kept_of = text.ravel(), labels.ravel(), kept.ravel()
    words = text_of[: text.size // WORD * WORD].view(np.uint64)
    for first in range(0, text.size, WORD):
        if first // WORD < len(words) and words[first // WORD] == 0:
            continue
        for pixel in range(first, min(first + WORD, text.size)):
            kept_of[pixel] = text_of[pixel] and is_kept[label_of[pixel]]
    return kept
