"""CLEval (arXiv 2006.06244): scores detection by the characters found, with a penalty for split and merged words.

The characters of a word are spread evenly along its middle line. A character is found if it lies in a detection matched with its
word. Matches are one to one, one word to many detections, or many words to one detection; at least `AREA_PRECISION` of the
detection's area must lie in the word, or in all its words together. Each detection of a word after the first costs one character
of recall, each word of a detection after the first one character of precision. Detections in don't-care regions are not counted;
words that overlap a don't-care region are cut out of it.

The scores equal those of the `cleval` package 0.1.1 with its default settings for detection: area precision 0.3, both granularity
penalties 1, vertical aspect ratio 0.5, no scale bins. Two consequences: coordinates are truncated to whole pixels (so pass
polygons in pixels of the image, not of a smaller map), and an unmatched detection costs `height / width` characters, which is one
for most lines of text.

There are two differences. Polygons may have any number of vertices, while the package takes quadrilaterals only. A polygon that
crosses itself is the region it encloses, while the package sums its area with both signs.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import shapely
import torch

from dali_pipelines.compiled import compiled
from ocr.metrics.overlaps import Indices, Shapes, common_areas, near_boxes, regions_of
from ocr.metrics.pooled import PooledMetric
from ocr.metrics.regions import (
    Bools,
    FlatPolygons,
    Floats,
    Geometries,
    Ints,
    Polygons,
    Regions,
    flat_polygons,
    ignore_flags,
)

AREA_PRECISION = 0.3
"""A detection belongs to a region if at least this fraction of its area lies in the region."""
VERTICAL_ASPECT_RATIO = 0.5
"""A quadrilateral with a smaller ratio of width to height contains vertical text."""
MAX_PSEUDO_LENGTH = 10
"""Largest number of characters assumed for a region with unknown text."""
CLOSE = 1e-5
"""Parts of an area that differ by less from `AREA_PRECISION` are computed by shapely, because their last digits decide."""
EPSILON = 1e-5
"""Keeps ratios of lengths in pixels finite."""


class CLEvalCounts(NamedTuple):
    """Counts of one image, in characters."""

    found: int
    """Characters in a detection matched with their word; each counts once."""
    num_target_chars: int
    """Characters of all targets, without don't-care regions."""
    num_predicted_chars: int
    """Characters in each matched detection, plus the pseudo lengths of unmatched ones; without detections in don't-care regions."""
    splits: int
    """Detections after the first of each word."""
    merges: int
    """Words after the first of each detection."""


@dataclass(frozen=True)
class CharacterTargets:
    """The prepared ground truth of one image. It can be kept between epochs and used from any thread."""

    shapes: Shapes
    """T targets in whole pixels."""
    ignore: Bools
    """(T,) don't-care flags."""
    dont_care: Geometries
    """(T,) don't-care regions with the words cut out of them; None for words."""
    characters: Floats
    """(C, 2) positions of the characters of all targets, (x, y), target by target."""
    target_of_character: Ints
    """(C,) index of each character's target."""

    @classmethod
    def from_polygons(
        cls, polygons: Polygons, ignore: npt.ArrayLike, lengths: npt.ArrayLike | None = None
    ) -> "CharacterTargets":
        """Prepares the targets of one image.

        Args:
            polygons: T polygons (n, 2) in pixels of the image. The first half of the points runs along the text, the second half
                back; the first side of a quadrilateral is the top.
            ignore: T don't-care flags.
            lengths: T numbers of characters; None: pseudo lengths, the ratio of the longer to the shorter side, rounded up, at most
                10. Don't-care regions always have pseudo lengths.

        Raises:
            ValueError: numbers of flags or lengths differ, a length is negative, or a polygon has fewer than 3 points or a
                coordinate that is not finite.
        """
        flat = flat_polygons(polygons, "target")
        ignored = ignore_flags(ignore, len(polygons))
        known = None if lengths is None else _checked_lengths(lengths, len(polygons))
        characters, owners = [np.zeros((0, 2))], [np.zeros(0, np.int64)]
        for members, words in _by_number_of_vertices(flat):
            numbers = _pseudo_lengths(words)
            if known is not None:
                numbers = np.where(ignored[members], numbers, known[members])
            characters.append(_characters(words, numbers))
            owners.append(np.repeat(members, numbers))
        owner = np.concatenate(owners)
        by_owner = np.argsort(owner, kind="stable")
        return cls(
            shapes=Shapes.from_flat(_truncated(flat)),
            ignore=ignored,
            dont_care=_dont_care_regions(_truncated(flat), ignored),
            characters=np.concatenate(characters)[by_owner],
            target_of_character=owner[by_owner],
        )


class CLEvalMetric(PooledMetric[CLEvalCounts]):
    """CLEval precision, recall and hmean of detection, pooled over all images."""

    found: torch.Tensor
    num_target_chars: torch.Tensor
    num_predicted_chars: torch.Tensor
    splits: torch.Tensor
    merges: torch.Tensor

    def __init__(self) -> None:
        super().__init__(CLEvalCounts)

    def update(
        self,
        predictions: Sequence[Polygons],
        targets: Sequence[Polygons],
        ignore: Sequence[npt.ArrayLike],
        lengths: Sequence[npt.ArrayLike] | None = None,
    ) -> None:
        """Adds a batch of B images.

        Args:
            predictions, targets: B lists of (n, 2) polygons in pixels of the image.
            ignore: B arrays with one don't-care flag per target.
            lengths: B arrays with the number of characters of each target; None: pseudo lengths.

        Raises:
            ValueError: numbers of images, flags or lengths differ, a length is negative, or a polygon has fewer than 3 points or
                a coordinate that is not finite.
        """
        self._add_images(
            lambda found, polygons, flags, numbers: count_characters(
                found, CharacterTargets.from_polygons(polygons, flags, numbers)
            ),
            predictions=predictions,
            targets=targets,
            ignore=ignore,
            lengths=[None] * len(targets) if lengths is None else lengths,
        )

    def compute(self) -> dict[str, torch.Tensor]:
        """Returns hmean, precision and recall as float64 scalars; 0 without detections or without text."""
        recall = (self.found - self.splits).clamp(min=0).double() / self.num_target_chars.clamp(min=1)
        precision = (self.found - self.merges).clamp(min=0).double() / self.num_predicted_chars.clamp(min=1)
        smallest = torch.finfo(torch.float64).tiny
        return {
            "hmean": 2 * precision * recall / (precision + recall).clamp(min=smallest),
            "precision": precision,
            "recall": recall,
        }


def count_characters(predictions: Polygons | FlatPolygons, targets: CharacterTargets) -> CLEvalCounts:
    """Returns the counts of one image. A pure function: any thread may call it.

    Args:
        predictions: (n, 2) polygons in pixels of the image; the first side of a quadrilateral is the top.

    Raises:
        ValueError: a prediction has fewer than 3 points or a coordinate that is not finite.
    """
    flat = flat_polygons(predictions, "prediction")
    detected = Shapes.from_flat(_truncated(flat))
    detected_areas = _areas(detected)
    pairs = _find_pairs(targets, detected)
    parts = _parts(pairs, targets, detected, detected_areas)
    is_counted, unmatched, num_matched, was_found, splits, merges = _match(
        pairs,
        parts,
        targets.ignore,
        detected.num_polygons,
        len(targets.characters),
        np.float32(AREA_PRECISION),
        AREA_PRECISION,
    )
    return CLEvalCounts(
        found=int(np.count_nonzero(was_found)),
        num_target_chars=int(np.count_nonzero(~targets.ignore[targets.target_of_character])),
        num_predicted_chars=int(num_matched) + num_false_characters(flat, np.flatnonzero(unmatched & is_counted)),
        splits=int(splits),
        merges=int(merges),
    )


class _Pairs(NamedTuple):
    """K pairs of a target and a detection that contains characters of it, or whose box touches a don't-care region's.

    They are ordered by target. The hits are pairs of a character and a detection that contains it.
    """

    targets: Indices
    detections: Indices
    held: Indices
    """(K,) number of the target's characters in the detection."""
    character_of_hit: Indices
    pair_of_hit: Indices


def _find_pairs(targets: CharacterTargets, detected: Shapes) -> _Pairs:
    by_top, begin, end = near_boxes(targets.shapes.boxes, detected.boxes)
    points = np.tile(targets.characters, 2)
    _, begin_of_character, end_of_character = near_boxes(points, detected.boxes)
    return _Pairs(
        *_collect_pairs(
            targets.characters,
            targets.target_of_character,
            targets.shapes.boxes,
            targets.ignore,
            detected,
            by_top,
            np.stack([begin_of_character, end_of_character], axis=1),
            np.stack([begin, end], axis=1),
        )
    )


@compiled
def _collect_pairs(
    characters: Floats,
    target_of_character: Ints,
    target_boxes: Floats,
    ignore: Bools,
    detected: Shapes,
    by_top: Indices,
    near_characters: Indices,
    near_targets: Indices,
) -> tuple[Indices, Indices, Indices, Indices, Indices]:
    """Returns the fields of `_Pairs`.

    Args:
        by_top: indices of the detections by their upper edges.
        near_characters, near_targets: (C, 2) and (T, 2), begin and end of the detections among `by_top` that can touch.
    """
    pairs, num_pairs = np.empty((256, 3), np.int64), 0
    hits, num_hits = np.empty((256, 2), np.int64), 0
    pair_of_detection = np.full(len(detected.areas), -1)
    character = 0
    for target in range(len(ignore)):
        first_pair = num_pairs
        while character < len(characters) and target_of_character[character] == target:
            for detection in by_top[near_characters[character, 0] : near_characters[character, 1]]:
                polygon = detected.vertices[detected.starts[detection] : detected.starts[detection + 1]]
                if not _is_inside(characters[character], polygon, detected.boxes[detection]):
                    continue
                if pair_of_detection[detection] < first_pair:
                    if num_pairs == len(pairs):
                        pairs = np.concatenate((pairs, pairs))
                    pairs[num_pairs] = target, detection, 0
                    pair_of_detection[detection] = num_pairs
                    num_pairs += 1
                if num_hits == len(hits):
                    hits = np.concatenate((hits, hits))
                hits[num_hits] = character, pair_of_detection[detection]
                pairs[pair_of_detection[detection], 2] += 1
                num_hits += 1
            character += 1
        if not ignore[target]:
            continue
        for detection in by_top[near_targets[target, 0] : near_targets[target, 1]]:
            if pair_of_detection[detection] < first_pair and _touch(target_boxes[target], detected.boxes[detection]):
                if num_pairs == len(pairs):
                    pairs = np.concatenate((pairs, pairs))
                pairs[num_pairs] = target, detection, 0
                pair_of_detection[detection] = num_pairs
                num_pairs += 1
    pairs, hits = pairs[:num_pairs], hits[:num_hits]
    return pairs[:, 0].copy(), pairs[:, 1].copy(), pairs[:, 2].copy(), hits[:, 0].copy(), hits[:, 1].copy()


@compiled
def _touch(box: Floats, other: Floats) -> bool:
    return max(box[0], other[0]) < min(box[2], other[2]) and max(box[1], other[1]) < min(box[3], other[3])


@compiled
def _is_inside(point: Floats, polygon: Floats, box: Floats) -> bool:
    """Returns whether a point lies in a polygon. Left and upper borders count as inside, other borders do not."""
    x, y = point
    if not (box[0] <= x <= box[2] and box[1] <= y <= box[3]):
        return False
    is_inside = False
    for vertex in range(len(polygon)):
        first, last = polygon[vertex - 1], polygon[vertex]
        if first[1] > last[1]:
            first, last = last, first
        # Counts the edges that a ray to the right crosses.
        if first[1] <= y < last[1]:
            is_right = (x - first[0]) * (last[1] - first[1]) < (last[0] - first[0]) * (y - first[1])
            is_inside ^= is_right
    return is_inside


def _areas(detected: Shapes) -> Floats:
    """Returns (D,) the areas of the detections."""
    bent = np.flatnonzero(~detected.is_convex)
    if len(bent) == 0:
        return detected.areas
    areas = detected.areas.copy()
    areas[bent] = regions_of(detected, bent).areas
    return areas


def _parts(
    pairs: _Pairs, targets: CharacterTargets, detected: Shapes, detected_areas: Floats
) -> npt.NDArray[np.float32]:
    """Returns (K,), the part of each detection's area that lies in the target."""
    common = common_areas(targets.shapes, detected, pairs.targets, pairs.detections)
    areas = detected_areas[pairs.detections]
    unsure = np.flatnonzero(_is_unsure(pairs, common, areas, targets.ignore, detected.num_polygons))
    if len(unsure) > 0:
        rows, columns = pairs.targets[unsure], pairs.detections[unsure]
        geometries = targets.dont_care[rows]
        is_word = ~targets.ignore[rows]
        geometries[is_word] = regions_of(targets.shapes, rows[is_word]).geometries
        common[unsure] = shapely.area(shapely.intersection(geometries, regions_of(detected, columns).geometries))
    # Single precision as in the package: it decides cases that lie exactly on the threshold.
    return np.divide(common, areas, out=np.zeros(len(common)), where=areas > 0).astype(np.float32)


@compiled
def _is_unsure(pairs: _Pairs, common: Floats, areas: Floats, ignore: Bools, num_detected: int) -> Bools:
    """Returns (K,), whether shapely has to compute the common area: in don't-care regions, and where the last digits decide."""
    joint = np.zeros(num_detected)
    for pair in range(len(common)):
        if not ignore[pairs.targets[pair]]:
            joint[pairs.detections[pair]] += common[pair]
    is_unsure = np.zeros(len(common), np.bool_)
    for pair in range(len(common)):
        limit, close = AREA_PRECISION * areas[pair], CLOSE * areas[pair]
        is_sure = abs(common[pair] - limit) > close and abs(joint[pairs.detections[pair]] - limit) > close
        is_unsure[pair] = ignore[pairs.targets[pair]] or not is_sure
    return is_unsure


@compiled
def _match(
    pairs: _Pairs,
    parts: npt.NDArray[np.float32],
    ignore: Bools,
    num_detected: int,
    num_characters: int,
    least_part: np.float32,
    least_joint_part: float,
) -> tuple[Bools, Bools, int, Bools, int, int]:
    """Matches words with detections.

    Args:
        least_part, least_joint_part: `AREA_PRECISION`, in the precision of the package.

    Returns:
        Two arrays (D,): a detection counts, it matches no word. Number of hits in matched pairs. (C,) flags of the characters
        found. Splits and merges.
    """
    number = len(parts)
    is_counted = _not_in_dont_care(pairs, parts, ignore, num_detected, least_part)
    num_belonging, num_splitting = np.zeros(len(ignore), np.int64), np.zeros(len(ignore), np.int64)
    num_held, joint_part = np.zeros(num_detected, np.int64), np.zeros(num_detected)
    holds, belongs, can_match = np.zeros(number, np.bool_), np.zeros(number, np.bool_), np.zeros(number, np.bool_)
    for pair in range(number):
        target, detection = pairs.targets[pair], pairs.detections[pair]
        holds[pair] = pairs.held[pair] > 0
        belongs[pair] = holds[pair] and parts[pair] >= least_part
        can_match[pair] = not ignore[target] and is_counted[detection]
        num_belonging[target] += belongs[pair]
        if can_match[pair]:
            num_splitting[target] += belongs[pair]
            num_held[detection] += holds[pair]
            joint_part[detection] += parts[pair] if holds[pair] else 0.0
    is_matched = np.zeros(number, np.bool_)
    matches_of_target, matches_of_detection = np.zeros(len(ignore), np.int64), np.zeros(num_detected, np.int64)
    for pair in range(number):
        target, detection = pairs.targets[pair], pairs.detections[pair]
        # The only detection of its word, uncounted ones included; or one of several.
        is_alone = belongs[pair] and num_belonging[target] == 1
        is_split = belongs[pair] and num_splitting[target] >= 2
        is_merged = holds[pair] and num_held[detection] >= 2 and joint_part[detection] >= least_joint_part
        is_matched[pair] = can_match[pair] and (is_alone or is_split or is_merged)
        matches_of_target[target] += is_matched[pair]
        matches_of_detection[detection] += is_matched[pair]
    was_found, num_matched = np.zeros(num_characters, np.bool_), 0
    for hit in range(len(pairs.pair_of_hit)):
        if is_matched[pairs.pair_of_hit[hit]]:
            was_found[pairs.character_of_hit[hit]] = True
            num_matched += 1
    splits = np.sum(np.maximum(matches_of_target - 1, 0))
    merges = np.sum(np.maximum(matches_of_detection - 1, 0))
    return is_counted, matches_of_detection == 0, num_matched, was_found, splits, merges


@compiled
def _not_in_dont_care(
    pairs: _Pairs, parts: npt.NDArray[np.float32], ignore: Bools, num_detected: int, least_part: np.float32
) -> Bools:
    """Returns (D,), False for detections in one don't-care region, or in several together whose characters they contain."""
    is_counted, in_several = np.ones(num_detected, np.bool_), np.zeros(num_detected, np.float32)
    for pair in range(len(parts)):
        if ignore[pairs.targets[pair]]:
            detection = pairs.detections[pair]
            if pairs.held[pair] > 0:
                in_several[detection] += parts[pair]
            if parts[pair] >= least_part:
                is_counted[detection] = False
    return is_counted & (in_several < least_part)


def _truncated(polygons: FlatPolygons) -> FlatPolygons:
    return polygons._replace(vertices=np.trunc(polygons.vertices))


def _dont_care_regions(polygons: FlatPolygons, ignore: Bools) -> Geometries:
    """Returns (T,) the don't-care regions with the words cut out of them; None for words."""
    geometries = np.full(len(ignore), None, np.object_)
    if ignore.any():
        regions = Regions.from_flat(polygons).geometries
        geometries[ignore] = shapely.difference(regions[ignore], shapely.union_all(regions[~ignore]))
    return geometries


def _by_number_of_vertices(polygons: FlatPolygons) -> Iterator[tuple[Ints, Floats]]:
    """Yields the polygons in groups of equal number of vertices n: indices (K,) and vertices (K, n, 2)."""
    starts = np.cumsum(polygons.num_vertices) - polygons.num_vertices
    for number in np.unique(polygons.num_vertices).tolist():
        members = np.flatnonzero(polygons.num_vertices == number)
        yield members, polygons.vertices[starts[members, None] + np.arange(number)]


def _along_and_back(polygons: Floats) -> tuple[Floats, Floats]:
    """Returns the two long sides of (K, n, 2) polygons, (K, H, 2) each, both in reading direction.

    With an odd number of points both sides end in the middle one.
    """
    half = (polygons.shape[1] + 1) // 2
    return polygons[:, :half], polygons[:, ::-1][:, :half]


def _aspect_ratios(polygons: Floats) -> Floats:
    """Returns (K,), the ratio of length along the text to height across it, of polygons (K, n, 2)."""
    along, back = _along_and_back(polygons)
    widths = (
        _distances(along[:, 1:], along[:, :-1]).sum(axis=1) + _distances(back[:, 1:], back[:, :-1]).sum(axis=1)
    ) / 2
    heights = _distances(along, back).mean(axis=1)
    return (widths + EPSILON) / (heights + EPSILON)


def _distances(first: Floats, second: Floats) -> Floats:
    return np.sqrt(np.square(first - second).sum(axis=-1))


def _pseudo_lengths(polygons: Floats) -> Ints:
    """Returns (K,), the number of characters assumed for regions with unknown text."""
    ratios = _aspect_ratios(polygons)
    return _rounded_up(np.maximum(ratios, 1 / ratios))


def num_false_characters(polygons: FlatPolygons, chosen: Indices) -> int:
    """Returns the number of characters that the detections of the indices cost, which match no word."""
    if len(chosen) == 0:
        return 0
    starts = np.cumsum(polygons.num_vertices) - polygons.num_vertices
    is_quad = polygons.num_vertices[chosen] == 4
    quads = np.empty((len(chosen), 4, 2))
    quads[is_quad] = polygons.vertices[starts[chosen[is_quad], None] + np.arange(4)]
    for place in np.flatnonzero(~is_quad).tolist():
        start = starts[chosen[place]]
        quads[place] = _rectangle(polygons.vertices[start : start + polygons.num_vertices[chosen[place]]])
    # The package divides height by width here, not the longer side by the shorter as for targets.
    return int(_rounded_up(1 / (EPSILON + _aspect_ratios(quads))).sum())


def _rounded_up(lengths: Floats) -> Ints:
    return np.minimum(np.rint(0.5 + lengths), MAX_PSEUDO_LENGTH).astype(np.int64)


def _rectangle(polygon: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    """Returns (4, 2) corners of the smallest rectangle around a polygon; the first side is one of the two closest to horizontal."""
    corners = cv2.boxPoints(cv2.minAreaRect(np.asarray(polygon, np.float32)))
    across, down = np.abs(corners[1] - corners[0])
    return corners if across >= down else np.roll(corners, 1, axis=0)


def _characters(polygons: Floats, numbers: Ints) -> Floats:
    """Returns (sum of numbers, 2), the positions of the characters of polygons (K, n, 2).

    The middle line of each polygon is cut into as many equal parts as it has characters; the positions are their centres.
    """
    along, back = _along_and_back(polygons)
    lines = (along + back) / 2
    if polygons.shape[1] != 4:
        parts = [_part_centres(line, number) for line, number in zip(lines, numbers.tolist(), strict=True)]
        return np.concatenate(parts)
    is_vertical = _aspect_ratios(polygons) < VERTICAL_ASPECT_RATIO
    lines[is_vertical] = ((polygons[:, [3, 0]] + polygons[:, [2, 1]]) / 2)[is_vertical]
    word = np.repeat(np.arange(len(lines)), numbers)
    nth = np.arange(len(word)) - (np.cumsum(numbers) - numbers)[word]
    steps = (lines[:, 1] - lines[:, 0]) / np.maximum(numbers, 1)[:, None]
    # The same sum as in the package: with whole-pixel boxes, characters often lie exactly on the border of other boxes.
    return lines[word, 0] + steps[word] / 2 + steps[word] * nth[:, None]


def _part_centres(line: Floats, number: int) -> Floats:
    """Returns (number, 2), the centres of equally long parts of a line (H, 2)."""
    reached = np.concatenate([[0], np.cumsum(_distances(line[1:], line[:-1]))])
    wanted = (np.arange(number) + 0.5) * (reached[-1] / max(number, 1))
    return np.stack([np.interp(wanted, reached, line[:, axis]) for axis in range(2)], axis=1)


def _checked_lengths(lengths: npt.ArrayLike, num_targets: int) -> Ints:
    checked = np.asarray(lengths, np.int64).reshape(-1)
    if len(checked) != num_targets:
        raise ValueError(f"lengths has {len(checked)} numbers for {num_targets} targets; one per target is needed")
    if (checked < 0).any():
        index = np.argmin(checked)
        raise ValueError(f"target {index} has a length of {checked[index]} characters; at least 0 is needed")
    return checked
