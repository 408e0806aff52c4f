"""Precision, recall and hmean of detected text by the IoU protocol of ICDAR 2015, pooled over all images.

A detection and a ground truth match when their IoU is above the threshold; one detection matches one ground truth.
Ground truth marked don't-care counts neither as found nor as missed, and a detection that lies with more than half of
its area in one don't-care region counts neither as right nor as wrong.
As in the official evaluation, ground truths are served in their order and each takes the first free detection: where
ground truths overlap so much that one detection fits two of them (IoU above 0.5 with both), the order can decide.
Polygons that cross themselves are replaced by the region they enclose; some evaluators leave them out instead.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torchmetrics import Metric

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
"""A detection with more than this part of its area in a don't-care region is not counted."""
ROUNDING = 1 + 1e-9
"""An intersection may come out larger than the box it lies in by less than this factor."""


class MatchCounts(NamedTuple):
    """What one image adds to the sums."""

    matched: int
    num_targets: int
    """Don't-care regions left out."""
    num_predictions: int
    """Detections in don't-care regions left out."""


@dataclass(frozen=True)
class TargetRegions:
    """The ground truth of one image, prepared: it can be kept between epochs and used from any thread."""

    regions: Regions
    ignore: Bools
    """(T,): don't-care."""

    @classmethod
    def from_polygons(cls, polygons: Polygons, ignore: npt.ArrayLike) -> "TargetRegions":
        """The targets of one image.

        Args:
            polygons: T times (n, 2), in the frame the detections will be in.
            ignore: T flags: don't-care.

        Raises:
            ValueError: lengths differ, or a polygon has fewer than 3 points or a coordinate that is not finite.
        """
        return cls(Regions.from_flat(flat_polygons(polygons, "target")), ignore_flags(ignore, len(polygons)))


class ICDARMetric(Metric):
    """ICDAR 2015 IoU precision, recall and hmean. States are integer sums: exact over any number of processes."""

    full_state_update = False
    higher_is_better = True
    matched: torch.Tensor
    num_targets: torch.Tensor
    num_predictions: torch.Tensor

    def __init__(self, iou_threshold: float = 0.5) -> None:
        super().__init__()
        self.iou_threshold = iou_threshold
        for name in MatchCounts._fields:
            self.add_state(name, torch.tensor(0), dist_reduce_fx="sum")

    def update(
        self,
        predictions: Sequence[Polygons],
        targets: Sequence[Polygons],
        ignore: Sequence[npt.ArrayLike],
        scores: Sequence[npt.ArrayLike] | None = None,
    ) -> None:
        """Adds a batch of B images; predictions and targets of an image are in one frame, whichever it is.

        Args:
            predictions, targets: B lists of (n, 2) polygons.
            ignore: B arrays with one flag a target: don't-care.
            scores: B arrays with one number a prediction: then detections are served best first, not in their order.

        Raises:
            ValueError: lengths differ, or a polygon has fewer than 3 points or a coordinate that is not finite.
        """
        if not len(predictions) == len(targets) == len(ignore):
            raise ValueError(
                f"predictions, targets and ignore are of {len(predictions)}, {len(targets)} and {len(ignore)} images"
            )
        if scores is not None:
            predictions = [_best_first(*image) for image in zip(predictions, scores, strict=True)]
        for index, (found, wanted, flags) in enumerate(zip(predictions, targets, ignore, strict=True)):
            try:
                (counts,) = match_image(found, TargetRegions.from_polygons(wanted, flags), (self.iou_threshold,))
            except ValueError as error:
                raise ValueError(f"image {index} of the batch: {error}") from error
            self._accumulate(counts)

    def add(self, counts: MatchCounts) -> None:
        """Adds one image that `match_image` counted at this metric's threshold, perhaps in another thread."""
        self.update([], [], [])  # of no images: tells torchmetrics that a computed result is out of date
        self._accumulate(counts)

    def compute(self) -> dict[str, torch.Tensor]:
        """hmean, precision and recall as float64 scalars; 0 where nothing was detected or nothing is to be found."""
        matched = self.matched.double()
        return {
            "hmean": 2 * matched / (self.num_targets + self.num_predictions).clamp(min=1),
            "precision": matched / self.num_predictions.clamp(min=1),
            "recall": matched / self.num_targets.clamp(min=1),
        }

    def _accumulate(self, counts: MatchCounts) -> None:
        self.matched += counts.matched
        self.num_targets += counts.num_targets
        self.num_predictions += counts.num_predictions


def match_image(
    predictions: Polygons, targets: TargetRegions, iou_thresholds: Sequence[float] = (0.5, 0.7)
) -> tuple[MatchCounts, ...]:
    """The counts of one image at each threshold, from one computation of overlaps. Pure: any thread may call it.

    Args:
        predictions: (n, 2) polygons in the frame of the targets, in the order in which they are served.
        iou_thresholds: one or more.

    Raises:
        ValueError: a prediction has fewer than 3 points or a coordinate that is not finite.
    """
    detected = Regions.from_flat(flat_polygons(predictions, "prediction"))
    rows, columns = _pairs_that_can_matter(targets, detected, min(iou_thresholds))
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


def _pairs_that_can_matter(targets: TargetRegions, detected: Regions, iou_threshold: float) -> tuple[Ints, Ints]:
    """Targets and detections, ordered by target, that could match or be don't-care by the size of their boxes."""
    at_most = box_overlap(targets.regions, detected) * ROUNDING
    least_union = targets.regions.areas[:, None] + detected.areas - at_most
    can_match = at_most > iou_threshold * least_union
    can_be_dont_care = targets.ignore[:, None] & (at_most > DONT_CARE_OVERLAP * detected.areas)
    rows, columns = np.nonzero((can_match | can_be_dont_care) & (at_most > 0))
    return rows, columns


def _num_matched(targets: Ints, detections: Ints) -> int:
    """One-to-one matches of pairs ordered by target: each target in turn takes the first detection left."""
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
        raise ValueError(f"scores have shape {scores.shape} for {len(polygons)} predictions; one each is needed")
    return [polygons[index] for index in np.argsort(-scores, kind="stable")]
