"""Names what happened to each text and each detection of an image, and sorts its matches by score.

Joined and split follow DetEval (Wolf and Jolion, 2006). The area recall of a text is the share of it that a detection covers, the
area precision of a detection the share of it that lies in a text. A detection joins texts if it has an area recall above 0.5 of two
or more, which together fill more than 0.4 of it. A text is split if two or more detections have an area precision above 0.4 in it
and together cover more than 0.5 of it. DetEval, which gives points for both, asks an area recall of 0.8. Here they only explain a
miss, and the words of a line with gaps between them often cover less. A match by IoU goes first: a detection that matches one text
and swallows a second one is a hit, and only the second text counts as joined.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ocr.metrics.icdar import MatchCounts, TargetRegions, decisive_overlaps, matched_pairs
from ocr.metrics.overlaps import Overlaps, Shapes
from ocr.metrics.regions import Bools, FlatPolygons, Floats

AREA_RECALL, AREA_PRECISION = 0.5, 0.4
"""Least shares of a text and of a detection."""
HIT, LOOSE, JOINED, SPLIT, MISSED, FALSE_ALARM, IGNORED = "hljsmfi"
"""Letters of a review. LOOSE: a hit at the first IoU threshold, not at the second. IGNORED: a don't-care region, or a detection
in one."""
_STEP = 0.01
"""Distance between two thresholds of a sweep."""


class Review(NamedTuple):
    """The outcome of each text and detection of one image, small enough for a line of predictions.jsonl."""

    found: str
    """A letter for each detection: HIT, LOOSE, JOINED, SPLIT, FALSE_ALARM or IGNORED."""
    texts: str
    """A letter for each text: HIT, LOOSE, JOINED, SPLIT, MISSED or IGNORED."""
    ious: tuple[float, ...]
    """The largest IoU of each detection with a text, rounded to 2 decimals."""
    steps: tuple[tuple[int, ...], ...]
    """(step, detections, matches at each IoU threshold): the detections that are left at the first `step` thresholds of a sweep and
    at no higher one. Those in don't-care regions are not counted."""


def sweep_thresholds(bin_thresh: float, box_thresh: float) -> Floats:
    """Returns the values of box_thresh to compare: from bin_thresh, below which no region scores, up to 0.99, and box_thresh."""
    first = int(np.ceil(bin_thresh / _STEP - 1e-9))
    return np.unique(np.round([*np.arange(first, 100) * _STEP, box_thresh], 6))


def review_image(
    detections: FlatPolygons,
    scores: npt.NDArray[np.floating],
    num_below: int,
    targets: TargetRegions,
    iou_thresholds: Sequence[float],
    thresholds: Floats,
    box_thresh: float,
) -> tuple[tuple[MatchCounts, ...], Review]:
    """Returns the counts of an image as `match_image` does, and its review. A pure function: any thread may call it.

    Args:
        detections: polygons in the frame of the targets, best first.
        scores: (P,) of the detections.
        num_below: the last detections, which score below `box_thresh`. They are part of the sweep only.
        iou_thresholds: two, the looser one first.
        thresholds: from `sweep_thresholds`.
    """
    detected = Shapes.from_flat(detections)
    found = decisive_overlaps(targets, detected, np.array(iou_thresholds, np.float64))
    is_counted, target_of = matched_pairs(
        found, targets.ignore, detected.num_polygons, np.array(iou_thresholds, np.float64)
    )
    num_kept = detected.num_polygons - num_below
    num_texts = int(np.count_nonzero(~targets.ignore))
    counts = tuple(
        MatchCounts(int(np.count_nonzero(row[:num_kept] >= 0)), num_texts, int(np.count_nonzero(is_counted[:num_kept])))
        for row in target_of
    )
    is_of_kept = (found.second < num_kept) & is_counted[found.second] & ~targets.ignore[found.first]
    pairs = Overlaps._make(column[is_of_kept] for column in found)
    of_found, of_texts = _letters(pairs, is_counted[:num_kept], targets.ignore, target_of[:, :num_kept])
    ious = np.zeros(num_kept)
    np.maximum.at(ious, pairs.second, pairs.common / (pairs.first_area + pairs.second_area - pairs.common))
    steps = _steps(np.asarray(scores, np.float64), num_kept, thresholds, box_thresh)
    review = Review(
        "".join(of_found), "".join(of_texts), tuple(np.round(ious, 2).tolist()), _sums(steps, is_counted, target_of)
    )
    return counts, review


def _letters(
    pairs: Overlaps, is_counted: Bools, ignore: Bools, target_of: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.str_], npt.NDArray[np.str_]]:
    """Returns the letters of the detections and of the texts."""
    texts, found = pairs.first, pairs.second
    recall, precision = pairs.common / pairs.first_area, pairs.common / pairs.second_area
    covers = recall > AREA_RECALL
    joins = _several(found[covers], precision[covers], len(is_counted), AREA_PRECISION)
    is_part = precision > AREA_PRECISION
    is_split = _several(texts[is_part], recall[is_part], len(ignore), AREA_RECALL)

    of_texts = np.full(len(ignore), MISSED)
    of_texts[is_split] = SPLIT
    of_texts[texts[covers & joins[found]]] = JOINED
    of_found = np.full(len(is_counted), FALSE_ALARM)
    of_found[found[is_part & is_split[texts]]] = SPLIT
    of_found[joins] = JOINED
    is_hit, is_tight = target_of >= 0
    of_found[is_hit] = LOOSE
    of_found[is_hit & is_tight] = HIT
    of_texts[target_of[0, is_hit]] = of_found[is_hit]
    of_texts[ignore], of_found[~is_counted] = IGNORED, IGNORED
    return of_found, of_texts


def _several(owners: npt.NDArray[np.int64], shares: Floats, num_owners: int, least: float) -> Bools:
    """Returns which owners have two or more shares with a sum above `least`."""
    return (np.bincount(owners, minlength=num_owners) >= 2) & (np.bincount(owners, shares, num_owners) > least)


def _steps(scores: Floats, num_kept: int, thresholds: Floats, box_thresh: float) -> npt.NDArray[np.int64]:
    """Returns at how many of the ascending thresholds each detection is left."""
    steps = np.searchsorted(thresholds, scores, side="right")
    # Scores are rounded to single precision. Post-processing has compared them with box_thresh before that.
    present = int(np.searchsorted(thresholds, round(box_thresh, 6)))
    steps[:num_kept] = np.maximum(steps[:num_kept], present + 1)
    steps[num_kept:] = np.minimum(steps[num_kept:], present)
    return steps


def _sums(
    steps: npt.NDArray[np.int64], is_counted: Bools, target_of: npt.NDArray[np.int64]
) -> tuple[tuple[int, ...], ...]:
    rows = np.stack([is_counted, *(target_of >= 0)]).astype(np.int64)
    sums = np.stack([np.bincount(steps, row, minlength=1) for row in rows], axis=1).astype(int)
    return tuple((step, *sums[step].tolist()) for step in np.flatnonzero(sums[:, 0]).tolist())
