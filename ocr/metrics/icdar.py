"""Precision, recall and hmean of detected text by the IoU protocol of ICDAR 2015, pooled over all images.

A detection and a ground truth match when their IoU is above the threshold; one detection matches one ground truth.
Ground truth marked don't-care counts neither as found nor as missed, and a detection that lies with more than half of
its area in one don't-care region counts neither as right nor as wrong.
As in the official evaluation, ground truths are served in their order and each takes the first free detection: where
ground truths overlap so much that one detection fits two of them (IoU above 0.5 with both), the order can decide.
Polygons that cross themselves are replaced by the region they enclose; some evaluators leave them out instead.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import shapely
import torch
from torchmetrics import Metric

Polygons = Sequence[npt.NDArray[np.floating]]
"""Of one image: (n, 2) each, (x, y), n >= 3."""
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

DONT_CARE_OVERLAP = 0.5
"""A detection with more than this part of its area in a don't-care region is not counted."""


class MatchCounts(NamedTuple):
    """What one image adds to the sums."""

    matched: int
    num_targets: int
    """Don't-care regions left out."""
    num_predictions: int
    """Detections in don't-care regions left out."""


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
        for index, image in enumerate(zip(predictions, targets, ignore, strict=True)):
            try:
                counts = match_image(*image, iou_threshold=self.iou_threshold)
            except ValueError as error:
                raise ValueError(f"image {index} of the batch: {error}") from error
            self.matched += counts.matched
            self.num_targets += counts.num_targets
            self.num_predictions += counts.num_predictions

    def compute(self) -> dict[str, torch.Tensor]:
        """hmean, precision and recall as float64 scalars; 0 where nothing was detected or nothing is to be found."""
        matched = self.matched.double()
        return {
            "hmean": 2 * matched / (self.num_targets + self.num_predictions).clamp(min=1),
            "precision": matched / self.num_predictions.clamp(min=1),
            "recall": matched / self.num_targets.clamp(min=1),
        }


def match_image(
    predictions: Polygons, targets: Polygons, ignore: npt.ArrayLike, *, iou_threshold: float = 0.5
) -> MatchCounts:
    """The counts of one image; arguments as for one image of `ICDARMetric.update`."""
    ignored = np.asarray(ignore, np.bool_).reshape(-1)
    if len(ignored) != len(targets):
        raise ValueError(f"ignore has {len(ignored)} flags for {len(targets)} targets; one each is needed")
    detected, wanted = _regions(predictions, "prediction"), _regions(targets, "target")
    overlap = _intersection_areas(wanted, detected)
    detected_area, wanted_area = shapely.area(detected), shapely.area(wanted)
    uncounted = (overlap[ignored] > DONT_CARE_OVERLAP * detected_area).any(axis=0)
    union = wanted_area[:, None] + detected_area - overlap
    fits = overlap > iou_threshold * union
    return MatchCounts(
        matched=_num_matched(fits[~ignored][:, ~uncounted]),
        num_targets=int(np.sum(~ignored)),
        num_predictions=int(np.sum(~uncounted)),
    )


def _best_first(polygons: Polygons, scores: npt.ArrayLike) -> Polygons:
    scores = np.asarray(scores)
    if scores.shape != (len(polygons),):
        raise ValueError(f"scores have shape {scores.shape} for {len(polygons)} predictions; one each is needed")
    return [polygons[index] for index in np.argsort(-scores, kind="stable")]


def _num_matched(fits: Bools) -> int:
    """One-to-one matches of (targets, detections): each target in turn takes the first detection left."""
    free = np.ones(fits.shape[1], np.bool_)
    for of_target in fits:
        taken = np.flatnonzero(of_target & free)[:1]
        free[taken] = False
    return int(np.sum(~free))


def _intersection_areas(first: npt.NDArray[np.object_], second: npt.NDArray[np.object_]) -> Floats:
    """(len(first), len(second)) areas, computed only where the bounding boxes overlap."""
    a, b = shapely.bounds(first)[:, None], shapely.bounds(second)[None]
    meets = ((a[..., :2] < b[..., 2:]) & (b[..., :2] < a[..., 2:])).all(axis=-1)
    rows, columns = np.nonzero(meets)
    areas = np.zeros(meets.shape)
    areas[rows, columns] = shapely.area(shapely.intersection(first[rows], second[columns]))
    return areas


def _regions(polygons: Polygons, what: str) -> npt.NDArray[np.object_]:
    """One shapely geometry a polygon; of one that crosses itself, the region it encloses."""
    for index, polygon in enumerate(polygons):
        if np.ndim(polygon) != 2 or np.shape(polygon)[0] < 3 or np.shape(polygon)[1] != 2:
            raise ValueError(f"{what} {index} has shape {np.shape(polygon)}; (n, 2) with n >= 3 is needed")
        if not np.isfinite(polygon).all():
            raise ValueError(f"{what} {index} has coordinates that are not finite")
    if not polygons:
        return np.empty(0, np.object_)
    rings = shapely.linearrings(
        np.concatenate(polygons), indices=np.repeat(np.arange(len(polygons)), [len(p) for p in polygons])
    )
    regions = shapely.polygons(rings)
    crossing = ~shapely.is_valid(regions)
    regions[crossing] = shapely.make_valid(regions[crossing], method="structure", keep_collapsed=False)
    return regions
