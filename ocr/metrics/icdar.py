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

from ocr.metrics.pooled import PooledMetric
from ocr.metrics.regions import (
    Bools,
    Ints,
    Polygons,
    Regions,
    box_overlap,
    flat_polygons,
    ignore_flags,
    overlap_of_pairs,
)

DONT_CARE_OVERLAP = 0.5
"""A detection with more than this fraction of its area in a don't-care region is not counted."""
ROUNDING = 1 + 1e-9
"""Factor for rounding: the computed area of an intersection may exceed that of its bounding box by less than this."""


class MatchCounts(NamedTuple):
    """Counts of one image."""

    matched: int
    """Pairs of a target and a detection."""
    num_targets: int
    """Targets, without don't-care regions."""
    num_predictions: int
    """Detections, without those in don't-care regions."""


@dataclass(frozen=True)
class TargetRegions:
    """The prepared ground truth of one image. It can be kept between epochs and used from any thread."""

    regions: Regions
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
        return cls(Regions.from_flat(flat_polygons(polygons, "target")), ignore_flags(ignore, len(polygons)))


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
            ordered = found if ranks is None else _best_first(found, ranks)
            return match_image(ordered, TargetRegions.from_polygons(polygons, flags), (self.iou_threshold,))[0]

        all_scores = [None] * len(predictions) if scores is None else scores
        self._add_images(count, predictions=predictions, targets=targets, ignore=ignore, scores=all_scores)

    def compute(self) -> dict[str, torch.Tensor]:
        """Returns hmean, precision and recall as float64 scalars; 0 without detections or without text."""
        matched = self.matched.double()
        return {
            "hmean": 2 * matched / (self.num_targets + self.num_predictions).clamp(min=1),
            "precision": matched / self.num_predictions.clamp(min=1),
            "recall": matched / self.num_targets.clamp(min=1),
        }


def match_image(
    predictions: Polygons, targets: TargetRegions, iou_thresholds: Sequence[float] = (0.5, 0.7)
) -> tuple[MatchCounts, ...]:
    """Returns the counts of one image at each threshold. Overlaps are computed once. A pure function: any thread may call it.

    Args:
        predictions: (n, 2) polygons in the frame of the targets, in the order of matching.
        iou_thresholds: one or more.

    Raises:
        ValueError: a prediction has fewer than 3 points or a coordinate that is not finite.
    """
    detected = Regions.from_flat(flat_polygons(predictions, "prediction"))
    rows, columns = _candidate_pairs(targets, detected, min(iou_thresholds))
    overlap = overlap_of_pairs(targets.regions, detected, rows, columns)

    is_uncounted = np.zeros(len(detected), np.bool_)
    in_dont_care = targets.ignore[rows] & (overlap > DONT_CARE_OVERLAP * detected.areas[columns])
    is_uncounted[columns[in_dont_care]] = True

    is_counted_pair = ~targets.ignore[rows] & ~is_uncounted[columns]
    union = targets.regions.areas[rows] + detected.areas[columns] - overlap
    num_targets, num_predictions = int(np.sum(~targets.ignore)), int(np.sum(~is_uncounted))
    counts = []
    for threshold in iou_thresholds:
        fits = is_counted_pair & (overlap > threshold * union)
        counts.append(MatchCounts(_num_matched(rows[fits], columns[fits]), num_targets, num_predictions))
    return tuple(counts)


def _candidate_pairs(targets: TargetRegions, detected: Regions, iou_threshold: float) -> tuple[Ints, Ints]:
    """Returns index pairs of targets and detections, ordered by target, whose boxes overlap enough for a match or a don't-care."""
    at_most = box_overlap(targets.regions, detected) * ROUNDING
    least_union = targets.regions.areas[:, None] + detected.areas - at_most
    can_match = at_most > iou_threshold * least_union
    can_be_dont_care = targets.ignore[:, None] & (at_most > DONT_CARE_OVERLAP * detected.areas)
    rows, columns = np.nonzero((can_match | can_be_dont_care) & (at_most > 0))
    return rows, columns


def _num_matched(targets: Ints, detections: Ints) -> int:
    """Returns the number of one-to-one matches among pairs ordered by target: each target takes the first free detection."""
    served: set[int] = set()
    taken: set[int] = set()
    for target, detection in zip(targets.tolist(), detections.tolist(), strict=True):
        if target not in served and detection not in taken:
            served.add(target)
            taken.add(detection)
    return len(taken)


def _best_first(polygons: Polygons, scores: npt.ArrayLike) -> Polygons:
    scores = np.asarray(scores)
    if scores.shape != (len(polygons),):
        raise ValueError(
            f"scores have shape {scores.shape} for {len(polygons)} predictions; one per prediction is needed"
        )
    return [polygons[index] for index in np.argsort(-scores, kind="stable")]
