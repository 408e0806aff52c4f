"""An image of an evaluation with its review, and the order in which images are shown."""

from bisect import bisect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from ocr.metrics.cleval import CLEvalCounts
from ocr.metrics.icdar import MatchCounts
from ocr.metrics.review import Review
from ocr.postprocess.boxes import Detections

Kept = TypeVar("Kept")


@dataclass(frozen=True)
class ReviewedImage:
    """The results of one image."""

    index: int
    """Position in the manifest."""
    name: str
    """File name."""
    detections: Callable[[], Detections]
    """Returns its detections, in pixels of the upright image."""
    below: Callable[[], Detections]
    """Returns the best ones below box_thresh, in the same pixels."""
    matches: tuple[MatchCounts, ...]
    """Counts at each IoU threshold."""
    characters: CLEvalCounts
    review: Review


def hmean_of(counts: MatchCounts) -> float:
    """Returns the hmean of an image; 1 if it has no text and no detection."""
    total = counts.num_targets + counts.num_predictions
    return 2 * counts.matched / total if total else 1.0


def errors_of(counts: MatchCounts) -> int:
    """Returns the number of texts without a detection and of detections without a text."""
    return counts.num_targets + counts.num_predictions - 2 * counts.matched


def rank(index: int, counts: MatchCounts) -> tuple[float, int, int]:
    """Returns the sort key of an image: the lowest hmean first, then the most errors, then the order of the set.

    Args:
        counts: at the looser IoU threshold.
    """
    return hmean_of(counts), -errors_of(counts), index


class Least(Generic[Kept]):
    """The objects with the smallest keys, ascending.

    Args:
        number: of objects to keep.
    """

    def __init__(self, number: int) -> None:
        self.kept: list[Kept] = []
        self._keys: list[tuple[float, ...]] = []
        self._number = number

    def add(self, key: tuple[float, ...], candidate: Kept) -> None:
        """Keeps an object if it is among the least so far."""
        place = bisect(self._keys, key)
        if place < self._number:
            self._keys.insert(place, key)
            self.kept.insert(place, candidate)
            del self._keys[self._number :], self.kept[self._number :]
