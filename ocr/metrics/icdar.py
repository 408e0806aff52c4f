"""Precision, recall and hmean of detected text by the IoU protocol of ICDAR 2015, pooled over all images.

A detection and a target match if their IoU is above the threshold; matches are one to one. Don't-care targets are not counted, and
neither are detections with more than half of their area in one don't-care region. As in the official evaluation, targets are
matched in their order, and each takes the first free detection. If targets overlap so much that one detection fits two of them
(IoU above 0.5 with both), the order can matter. A polygon that crosses itself is the region it encloses; some evaluators skip it
instead.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from dali_pipelines.compiled import compiled
from ocr.metrics.overlaps import PRECISION, Overlaps, Shapes, exact_overlaps, overlaps
from ocr.metrics.pooled import PooledMetric
from ocr.metrics.regions import Bools, FlatPolygons, Floats, Polygons, flat_polygons, ignore_flags

DONT_CARE_OVERLAP = 0.5
"""A detection with more than this fraction of its area in a don't-care region is not counted."""


class MatchCounts(NamedTuple):
    """Counts of one image."""

    matched: int
    """Pairs of a target and a detection."""
    num_targets: int
    """Targets, without don't-care regions."""
    num_predictions: int
    """Detections, without those in don't-care regions."""


class Scores(NamedTuple):
    """Precision, recall and hmean of all images together, or the same of each one's standard error."""

    precision: float
    recall: float
    hmean: float

    @classmethod
    def of(cls, counts: MatchCounts) -> "Scores":
        """Returns the scores of summed counts; 0 without detections or without text."""
        matched, num_texts, num_found = counts
        return cls(
            matched / max(num_found, 1), matched / max(num_texts, 1), 2 * matched / max(num_texts + num_found, 1)
        )


@dataclass(frozen=True)
class TargetRegions:
    """The prepared ground truth of one image. It can be kept between epochs and used from any thread."""

    shapes: Shapes
    ignore: Bools
    """(T,) don't-care flags."""

    @classmethod
    def from_polygons(cls, polygons: Polygons, ignore: npt.ArrayLike) -> "TargetRegions":
        """Prepares the targets of one image.

        Args:
            polygons: T polygons (n, 2) in the frame of the detections.
            ignore: T don't-care flags.

        Raises:
            ValueError: the number of flags differs, or a polygon has fewer than 3 points or a coordinate that is not finite.
        """
        return cls(Shapes.from_flat(flat_polygons(polygons, "target")), ignore_flags(ignore, len(polygons)))


class ICDARMetric(PooledMetric[MatchCounts]):
    """ICDAR 2015 IoU precision, recall and hmean, pooled over all images."""

    matched: torch.Tensor
    num_targets: torch.Tensor
    num_predictions: torch.Tensor

    def __init__(self, iou_threshold: float = 0.5) -> None:
        super().__init__(MatchCounts)
        self.iou_threshold = iou_threshold

    def update(
        self,
        predictions: Sequence[Polygons],
        targets: Sequence[Polygons],
        ignore: Sequence[npt.ArrayLike],
        scores: Sequence[npt.ArrayLike] | None = None,
    ) -> None:
        """Adds a batch of B images; predictions and targets of an image are in one frame.

        Args:
            predictions, targets: B lists of (n, 2) polygons.
            ignore: B arrays with one don't-care flag per target.
            scores: B arrays with one score per prediction, to match the best first; None matches in the given order.

        Raises:
            ValueError: numbers of images, flags or scores differ, or a polygon has fewer than 3 points or a coordinate that is not
                finite.
        """

        def count(
            found: Polygons, polygons: Polygons, flags: npt.ArrayLike, ranks: npt.ArrayLike | None
        ) -> MatchCounts:
            ordered = found if ranks is None else best_first(found, ranks)
            return match_image(ordered, TargetRegions.from_polygons(polygons, flags), (self.iou_threshold,))[0]

        all_scores = [None] * len(predictions) if scores is None else scores
        self._add_images(count, predictions=predictions, targets=targets, ignore=ignore, scores=all_scores)

    def compute(self) -> dict[str, torch.Tensor]:
        """Returns hmean, precision and recall as float64 scalars; 0 without detections or without text."""
        counts = MatchCounts(int(self.matched), int(self.num_targets), int(self.num_predictions))
        return {
            name: self.matched.new_tensor(score, dtype=torch.float64)
            for name, score in Scores.of(counts)._asdict().items()
        }


def match_image(
    predictions: Polygons | FlatPolygons, targets: TargetRegions, iou_thresholds: Sequence[float]
) -> tuple[MatchCounts, ...]:
    """Returns the counts of one image at each threshold. Overlaps are computed once. A pure function: any thread may call it.

    Args:
        predictions: (n, 2) polygons in the frame of the targets, in the order of matching.
        iou_thresholds: one or more.

    Raises:
        ValueError: a prediction has fewer than 3 points or a coordinate that is not finite.
    """
    detected = Shapes.from_flat(flat_polygons(predictions, "prediction"))
    thresholds = np.array(iou_thresholds, np.float64)
    found = decisive_overlaps(targets, detected, thresholds)
    is_counted, target_of = matched_pairs(found, targets.ignore, detected.num_polygons, thresholds)
    num_targets = len(targets.ignore) - int(np.count_nonzero(targets.ignore))
    num_predictions = int(np.count_nonzero(is_counted))
    return tuple(MatchCounts(int(np.count_nonzero(row >= 0)), num_targets, num_predictions) for row in target_of)


def decisive_overlaps(targets: TargetRegions, detected: Shapes, iou_thresholds: Floats) -> Overlaps:
    """Returns the overlaps of targets and detections, exact wherever a threshold or a don't-care region decides."""
    found = overlaps(targets.shapes, detected)
    # Annotations are often whole pixels, so an overlap may lie exactly on a threshold; shapely decides those cases.
    return exact_overlaps(found, targets.shapes, detected, _is_close(found, targets.ignore, iou_thresholds))


@compiled
def _is_close(found: Overlaps, ignore: Bools, iou_thresholds: Floats) -> Bools:
    """Returns (K,), whether a pair's overlap is unknown or so close to a threshold that the last digits decide."""
    is_close = np.zeros(len(found.common), np.bool_)
    for pair in range(len(found.common)):
        common, area = found.common[pair], found.second_area[pair]
        if ignore[found.first[pair]]:
            is_close[pair] = not abs(common - DONT_CARE_OVERLAP * area) > PRECISION * area
            continue
        union = found.first_area[pair] + area - common
        for threshold in iou_thresholds:
            if not abs(common - threshold * union) > PRECISION * union:
                is_close[pair] = True
    return is_close


@compiled
def matched_pairs(
    found: Overlaps, ignore: Bools, num_detected: int, iou_thresholds: Floats
) -> tuple[Bools, npt.NDArray[np.int64]]:
    """Returns which detections count, (P,), and the target of each at each threshold, (K, P), -1 without one.

    Each target in turn takes the first free detection. Detections are in order of their scores, so leaving out those below a
    score changes no pair of the others: a target takes the best one that is free, and a worse one never takes its place.

    Args:
        found: from `decisive_overlaps`.
        ignore: (T,) don't-care flags of the targets.
        num_detected: number of detections P.
        iou_thresholds: (K,).
    """
    is_counted = np.ones(num_detected, np.bool_)
    for pair in range(len(found.common)):
        if ignore[found.first[pair]] and found.common[pair] > DONT_CARE_OVERLAP * found.second_area[pair]:
            is_counted[found.second[pair]] = False
    target_of = np.full((len(iou_thresholds), num_detected), -1)
    for place in range(len(iou_thresholds)):
        is_free, last_served = is_counted.copy(), -1
        for pair in range(len(found.common)):
            target, detection, common = found.first[pair], found.second[pair], found.common[pair]
            union = found.first_area[pair] + found.second_area[pair] - common
            fits = common > iou_thresholds[place] * union
            if fits and is_free[detection] and not ignore[target] and target != last_served:
                is_free[detection], last_served = False, target
                target_of[place, detection] = target
    return is_counted, target_of


def best_first(polygons: Polygons, scores: npt.ArrayLike) -> Polygons:
    """Returns polygons in the order of matching: the highest score first, and equal ones in the given order.

    Raises:
        ValueError: the numbers of polygons and scores differ.
    """
    scores = np.asarray(scores)
    if scores.shape != (len(polygons),):
        raise ValueError(
            f"scores have shape {scores.shape} for {len(polygons)} predictions; one per prediction is needed"
        )
    return [polygons[index] for index in np.argsort(-scores, kind="stable")]
