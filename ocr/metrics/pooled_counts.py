"""Scores of images together, and how far chance in the choice of the images moves them.

Precision, recall and hmean are ratios of sums over images. The standard error of a ratio follows from the residuals of the images
(W. G. Cochran, Sampling Techniques, 3rd edition, 1977, chapter 6). With the counts c_i = (matched, targets, predictions) of image i
and the gradient g of a score in their sums, it is the root of

    n / (n - 1) * sum over i of (g . c_i)^2  =  n / (n - 1) * g . (sum over i of c_i c_i^T) . g

so only the sums of the products of counts are kept. Two runs on the same images have six counts per image; the gradient of the
difference of their scores accounts for images that are hard for both.

The images count as independent draws. Where they are alike, as those of one shop or street are, the true error is larger. With
fewer than ten images the standard error is a rough estimate, and where all images agree it is 0, which says nothing about others.
"""

from bisect import bisect
from collections.abc import Mapping, Sequence
from itertools import accumulate

import numpy as np

from ocr.metrics.icdar import MatchCounts, Scores
from ocr.metrics.regions import Floats

MARGIN = 2
"""Standard errors either way of a score that hold about 95 % of what other images would give."""


def with_margin(score: float, error: float | None) -> str:
    """Returns a score with its margin of `MARGIN` standard errors, such as 0.6771 ± 0.0612.

    Args:
        error: standard error; None or 0: unknown, so no margin.
    """
    return f"{score:.4f} ± {MARGIN * error:.4f}" if error else f"{score:.4f}"


def is_clear(difference: float, error: float | None) -> bool:
    """Returns whether a difference exceeds its margin, so that chance in the choice of the images hardly explains it.

    Args:
        error: standard error; None or 0: unknown, so no difference is clear.
    """
    return bool(error) and abs(difference) > MARGIN * (error or 0)


class PooledCounts:
    """The counts of images at one IoU threshold, summed. Its size does not depend on the number of images.

    Args:
        num_runs: detections of the same images, by one network or by two that are compared.
    """

    def __init__(self, num_runs: int = 1) -> None:
        self.num_images = 0
        self._sums = np.zeros((num_runs, 3), np.int64)
        self._products = np.zeros((num_runs * 3, num_runs * 3), np.int64)

    def add(self, *counts: MatchCounts) -> None:
        """Adds an image, with the counts of each run."""
        vector = np.array(counts, np.int64)
        self.num_images += 1
        self._sums += vector
        self._products += np.outer(vector, vector)

    def counts(self, run: int = 0) -> MatchCounts:
        """Returns the sums over all images."""
        return MatchCounts(*self._sums[run].tolist())

    def scores(self, run: int = 0) -> Scores:
        """Returns the scores of all images together."""
        return Scores.of(self.counts(run))

    def errors(self, run: int = 0) -> Scores | None:
        """Returns the standard errors of the scores; None with fewer than two images."""
        weights = np.zeros(len(self._sums))
        weights[run] = 1
        return self._errors(weights)

    def difference_errors(self) -> Scores | None:
        """Returns the standard errors of the first run's scores minus the second run's; None with fewer than two images."""
        return self._errors(np.array([1.0, -1.0]))

    def _errors(self, weights: Floats) -> Scores | None:
        """Returns the standard errors of the sum of the runs' scores, each times its weight."""
        if self.num_images < 2:
            return None
        gradients = np.concatenate(
            [weight * _gradients(self.counts(run)) for run, weight in enumerate(weights)], axis=1
        )
        squares = np.einsum("si,ij,sj->s", gradients, self._products.astype(np.float64), gradients)
        return Scores(*np.sqrt(np.maximum(squares, 0) * self.num_images / (self.num_images - 1)).tolist())


class PooledSplit:
    """The counts of all images of a split, and of those of each of its data sets, at each IoU threshold.

    Args:
        sizes: number of images by data set, in the order of the images. Empty for a single set, which is the whole.
        num_thresholds: of the counts of an image.
        num_runs: as in `PooledCounts`.
    """

    def __init__(self, sizes: Mapping[str, int], num_thresholds: int, num_runs: int = 1) -> None:
        def pooled() -> tuple[PooledCounts, ...]:
            return tuple(PooledCounts(num_runs) for _ in range(num_thresholds))

        self.whole = pooled()
        self.of_sets = {name: pooled() for name in sizes}
        self._in_order = list(self.of_sets.values())
        self._stops = list(accumulate(sizes.values()))

    def add(self, index: int, *runs: Sequence[MatchCounts]) -> None:
        """Adds an image.

        Args:
            index: its position in the split.
            runs: of each run the counts at each threshold.
        """
        parts = [self.whole, *self._in_order[(place := bisect(self._stops, index)) : place + 1]]
        for part in parts:
            for pooled, counts in zip(part, zip(*runs, strict=True), strict=True):
                pooled.add(*counts)


def _gradients(counts: MatchCounts) -> Floats:
    """Returns (3, 3), the derivative of each of `Scores` by each of `MatchCounts`."""
    precision, recall, hmean = Scores.of(counts)
    _, num_texts, num_found = counts
    return np.array(
        [
            np.array([1, 0, -precision]) / max(num_found, 1),
            np.array([1, -recall, 0]) / max(num_texts, 1),
            np.array([2, -hmean, -hmean]) / max(num_texts + num_found, 1),
        ]
    )
