"""CLEval (arXiv 2006.06244): detection scored by the characters found, with a price on words split and words joined.

Characters stand evenly along the middle line of their word. A character is found when it lies in a detection that is
matched with its word; a detection and a word are matched one to one, one word to many detections, or many words to one
detection, where the detection's area lies to at least `AREA_PRECISION` in the word (in all its words together).
Each detection beyond the first of a word costs one character of recall, each word beyond the first of a detection one
of precision. Don't-care regions, less the words that lie on them, take the detections that lie in them out of the count.

Scores are those of the `cleval` package 0.1.1 with its default settings for detection: area precision 0.3, both
granularity penalties 1, vertical aspect ratio 0.5, no bins of scale. Hence two of its habits: regions have their
coordinates cut to whole pixels (so give polygons in pixels of the image, not of a smaller map), and a detection without
a match costs `height / width` characters, which is one for most lines of text.

It departs from the package in two things. The package takes quadrilaterals only, here polygons can have any number of
vertices. A polygon that crosses itself is the region it encloses; the package computes its area with both signs.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import shapely
import torch
from torchmetrics import Metric

from ocr.metrics.regions import (
    Bools,
    FlatPolygons,
    Floats,
    Ints,
    Polygons,
    Regions,
    box_overlap,
    flat_polygons,
    ignore_flags,
    overlap_of_pairs,
)

AREA_PRECISION = 0.3
"""A detection belongs to a region when at least this part of its area lies in it."""
VERTICAL_ASPECT_RATIO = 0.5
"""A quadrilateral with less width a height than this holds vertical text."""
MAX_PSEUDO_LENGTH = 10
"""A region whose text is not known has at most this many characters."""
EPSILON = 1e-5
"""Keeps ratios of lengths in pixels finite."""


class CLEvalCounts(NamedTuple):
    """What one image adds to the sums; all in characters."""

    found: int
    """Characters in a detection matched with their word; each once."""
    num_target_chars: int
    """Don't-care regions left out."""
    num_predicted_chars: int
    """Characters in each matched detection, and the pseudo lengths of those without a match; uncounted ones left out."""
    splits: int
    """Detections beyond the first of each word."""
    merges: int
    """Words beyond the first of each detection."""


@dataclass(frozen=True)
class CharacterTargets:
    """The ground truth of one image, prepared: it can be kept between epochs and used from any thread."""

    regions: Regions
    """Of T targets; the words are cut out of the don't-care regions."""
    ignore: Bools
    """(T,): don't-care."""
    characters: Floats
    """(C, 2) where the characters of all targets are, (x, y)."""
    target_of_character: Ints
    """(C,)"""

    @classmethod
    def from_polygons(
        cls, polygons: Polygons, ignore: npt.ArrayLike, lengths: npt.ArrayLike | None = None
    ) -> "CharacterTargets":
        """The targets of one image.

        Args:
            polygons: T times (n, 2) in pixels of the image the detections are in. The first half of the points runs
                along the text, the second half back; of a quadrilateral the first side is the top.
            ignore: T flags: don't-care.
            lengths: T numbers of characters; None: pseudo lengths, the longer side in units of the shorter, rounded up,
                at most 10. Don't-care regions have these in any case.

        Raises:
            ValueError: lengths differ, a length is negative, or a polygon has fewer than 3 points or a coordinate that
                is not finite.
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
        return cls(
            regions=_with_words_cut_out(Regions.from_flat(_cut_to_whole_pixels(flat)), ignored),
            ignore=ignored,
            characters=np.concatenate(characters),
            target_of_character=np.concatenate(owners),
        )


class CLEvalMetric(Metric):
    """CLEval precision, recall and hmean of detection, pooled over all images. States are integer sums: exact over any
    number of processes."""

    full_state_update = False
    higher_is_better = True
    found: torch.Tensor
    num_target_chars: torch.Tensor
    num_predicted_chars: torch.Tensor
    splits: torch.Tensor
    merges: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in CLEvalCounts._fields:
            self.add_state(name, torch.tensor(0), dist_reduce_fx="sum")

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
            ignore: B arrays with one flag a target: don't-care.
            lengths: B arrays with the number of characters of each target; None: pseudo lengths.

        Raises:
            ValueError: lengths differ, a length is negative, or a polygon has fewer than 3 points or a coordinate that
                is not finite.
        """
        all_lengths: Sequence[npt.ArrayLike | None] = [None] * len(targets) if lengths is None else lengths
        if not len(predictions) == len(targets) == len(ignore) == len(all_lengths):
            raise ValueError(
                f"predictions, targets, ignore and lengths are of {len(predictions)}, {len(targets)}, {len(ignore)} "
                f"and {len(all_lengths)} images"
            )
        images = zip(predictions, targets, ignore, all_lengths, strict=True)
        for index, (found, wanted, flags, numbers) in enumerate(images):
            try:
                counts = count_characters(found, CharacterTargets.from_polygons(wanted, flags, numbers))
            except ValueError as error:
                raise ValueError(f"image {index} of the batch: {error}") from error
            self._accumulate(counts)

    def add(self, counts: CLEvalCounts) -> None:
        """Adds one image that `count_characters` counted, perhaps in another thread."""
        self.update([], [], [])  # of no images: tells torchmetrics that a computed result is out of date
        self._accumulate(counts)

    def compute(self) -> dict[str, torch.Tensor]:
        """hmean, precision and recall as float64 scalars; 0 where nothing was detected or nothing is to be found."""
        recall = (self.found - self.splits).clamp(min=0).double() / self.num_target_chars.clamp(min=1)
        precision = (self.found - self.merges).clamp(min=0).double() / self.num_predicted_chars.clamp(min=1)
        smallest = torch.finfo(torch.float64).tiny
        return {
            "hmean": 2 * precision * recall / (precision + recall).clamp(min=smallest),
            "precision": precision,
            "recall": recall,
        }

    def _accumulate(self, counts: CLEvalCounts) -> None:
        self.found += counts.found
        self.num_target_chars += counts.num_target_chars
        self.num_predicted_chars += counts.num_predicted_chars
        self.splits += counts.splits
        self.merges += counts.merges


def count_characters(predictions: Polygons, targets: CharacterTargets) -> CLEvalCounts:
    """The counts of one image. Pure: any thread may call it.

    Args:
        predictions: (n, 2) polygons in pixels of the image; of a quadrilateral the first side is the top.

    Raises:
        ValueError: a prediction has fewer than 3 points or a coordinate that is not finite.
    """
    flat = _cut_to_whole_pixels(flat_polygons(predictions, "prediction"))
    detected = Regions.from_flat(flat)
    characters, holders = _characters_inside(targets.characters, flat, detected)
    owners = targets.target_of_character[characters]

    shape = len(targets.ignore), len(predictions)
    held = np.bincount(owners * shape[1] + holders, minlength=shape[0] * shape[1]).reshape(shape)
    part_inside = _area_precision(targets, detected, held)
    is_counted = ~_in_dont_care(targets.ignore, part_inside, held)
    matches = _matches(part_inside, held, ~targets.ignore, is_counted)

    is_matched = matches[owners, holders]
    was_found = np.zeros(len(targets.characters), np.bool_)
    was_found[characters[is_matched]] = True
    in_vain = np.flatnonzero(is_counted & ~matches.any(axis=0)).tolist()
    return CLEvalCounts(
        found=int(np.sum(was_found)),
        num_target_chars=int(np.sum(~targets.ignore[targets.target_of_character])),
        num_predicted_chars=int(np.sum(is_matched)) + _num_false_characters([predictions[index] for index in in_vain]),
        splits=int(np.maximum(matches.sum(axis=1) - 1, 0).sum()),
        merges=int(np.maximum(matches.sum(axis=0) - 1, 0).sum()),
    )


def _area_precision(targets: CharacterTargets, detected: Regions, held: Ints) -> npt.NDArray[np.float32]:
    """(T, D) part of each detection's area in each target, where it can matter: words need a character inside."""
    at_most = box_overlap(targets.regions, detected)
    rows, columns = np.nonzero((at_most > 0) & (targets.ignore[:, None] | (held > 0)) & (detected.areas > 0))
    # In single precision, as in the package: it decides where parts are just the threshold.
    part_inside = np.zeros(held.shape, np.float32)
    part_inside[rows, columns] = overlap_of_pairs(targets.regions, detected, rows, columns) / detected.areas[columns]
    return part_inside


def _in_dont_care(ignore: Bools, part_inside: npt.NDArray[np.float32], held: Ints) -> Bools:
    """(D,) detections that lie in one don't-care region, or in several together whose characters they hold."""
    parts = part_inside[ignore]
    in_several = np.sum(parts, axis=0, where=held[ignore] > 0)
    return (parts >= AREA_PRECISION).any(axis=0) | (in_several >= AREA_PRECISION)


def _matches(part_inside: npt.NDArray[np.float32], held: Ints, is_word: Bools, is_counted: Bools) -> Bools:
    """(T, D) pairs of a word and a counted detection that belong together."""
    can_match = is_word[:, None] & is_counted
    holds = held > 0
    belongs = holds & (part_inside >= AREA_PRECISION)
    # Alone among all, uncounted detections included. That the word is alone too need not be asked: else it is merged.
    is_alone = belongs & (belongs.sum(axis=1) == 1)[:, None] & can_match
    holds, belongs = holds & can_match, belongs & can_match
    is_split = belongs & (belongs.sum(axis=1) >= 2)[:, None]
    joint_part = np.sum(part_inside, axis=0, where=holds, dtype=np.float64)
    is_merged = holds & (holds.sum(axis=0) >= 2) & (joint_part >= AREA_PRECISION)
    return is_alone | is_split | is_merged


def _characters_inside(characters: Floats, detections: FlatPolygons, regions: Regions) -> tuple[Ints, Ints]:
    """Pairs of a character and a detection around it; a left or upper border belongs to the inside, others do not."""
    x, y = characters[:, 0, None], characters[:, 1, None]
    x0, y0, x1, y1 = regions.boxes.T
    characters_near, near = np.nonzero((x >= x0) & (x <= x1) & (y >= y0) & (y <= y1))
    first, last = _edges(detections)
    x, y = x[characters_near], y[characters_near]
    first, last = first[near], last[near]
    # Number of edges that a ray to the right crosses.
    is_level = (first[..., 1] <= y) & (y < last[..., 1])
    rise, run = last[..., 1] - first[..., 1], last[..., 0] - first[..., 0]
    is_right = (x - first[..., 0]) * rise < run * (y - first[..., 1])
    is_inside = np.sum(is_level & is_right, axis=1) % 2 == 1
    return characters_near[is_inside], near[is_inside]


def _edges(polygons: FlatPolygons) -> tuple[Floats, Floats]:
    """(P, N, 2) upper and lower ends of the edges; polygons with fewer than N edges have some without length."""
    counts = polygons.num_vertices
    longest = int(counts.max(initial=0))
    starts = np.cumsum(counts) - counts
    steps = np.arange(longest + 1)
    around = polygons.vertices[starts[:, None] + np.where(steps < counts[:, None], steps, 0)]
    first, last = around[:, :-1], around[:, 1:]
    is_downward = (first[..., 1] <= last[..., 1])[..., None]
    return np.where(is_downward, first, last), np.where(is_downward, last, first)


def _cut_to_whole_pixels(polygons: FlatPolygons) -> FlatPolygons:
    return polygons._replace(vertices=np.trunc(polygons.vertices))


def _with_words_cut_out(regions: Regions, ignore: Bools) -> Regions:
    """The regions, words taken away from don't-care regions."""
    if not ignore.any():
        return regions
    geometries = regions.geometries.copy()
    geometries[ignore] = shapely.difference(geometries[ignore], shapely.union_all(geometries[~ignore]))
    return Regions.from_geometries(geometries)


def _by_number_of_vertices(polygons: FlatPolygons) -> Iterator[tuple[Ints, Floats]]:
    """The P polygons in groups of equal number of vertices n: their indices (K,) and vertices (K, n, 2)."""
    starts = np.cumsum(polygons.num_vertices) - polygons.num_vertices
    for number in np.unique(polygons.num_vertices).tolist():
        members = np.flatnonzero(polygons.num_vertices == number)
        yield members, polygons.vertices[starts[members, None] + np.arange(number)]


def _along_and_back(polygons: Floats) -> tuple[Floats, Floats]:
    """The two long sides of (K, n, 2) polygons, (K, H, 2) each, both in the direction of the text.

    With an odd number of points, both sides end in the middle one.
    """
    half = (polygons.shape[1] + 1) // 2
    return polygons[:, :half], polygons[:, ::-1][:, :half]


def _aspect_ratios(polygons: Floats) -> Floats:
    """(K,) length along the text in units of the height across it, of (K, n, 2)."""
    along, back = _along_and_back(polygons)
    widths = (
        _distances(along[:, 1:], along[:, :-1]).sum(axis=1) + _distances(back[:, 1:], back[:, :-1]).sum(axis=1)
    ) / 2
    heights = _distances(along, back).mean(axis=1)
    return (widths + EPSILON) / (heights + EPSILON)


def _distances(first: Floats, second: Floats) -> Floats:
    return np.sqrt(np.square(first - second).sum(axis=-1))


def _pseudo_lengths(polygons: Floats) -> Ints:
    """(K,) characters in regions whose text is not known."""
    ratios = _aspect_ratios(polygons)
    return _rounded_up(np.maximum(ratios, 1 / ratios))


def _num_false_characters(polygons: Polygons) -> int:
    """Characters that detections without a match stand for."""
    if not polygons:
        return 0
    quads = np.stack([polygon if len(polygon) == 4 else _rectangle(polygon) for polygon in polygons])
    # Not the longer side in units of the shorter as for targets: so the package does it.
    return int(_rounded_up(1 / (EPSILON + _aspect_ratios(quads.astype(np.float64)))).sum())


def _rounded_up(lengths: Floats) -> Ints:
    return np.minimum(np.rint(0.5 + lengths), MAX_PSEUDO_LENGTH).astype(np.int64)


def _rectangle(polygon: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    """(4, 2) corners of the smallest rectangle around a polygon; the first side is one of the two more level ones."""
    corners = cv2.boxPoints(cv2.minAreaRect(np.asarray(polygon, np.float32)))
    across, down = np.abs(corners[1] - corners[0])
    return corners if across >= down else np.roll(corners, 1, axis=0)


def _characters(polygons: Floats, numbers: Ints) -> Floats:
    """(sum of numbers, 2) middles of equal parts of the middle line of each of (K, n, 2) polygons."""
    along, back = _along_and_back(polygons)
    lines = (along + back) / 2
    if polygons.shape[1] != 4:
        parts = [_middles_of_parts(line, number) for line, number in zip(lines, numbers.tolist(), strict=True)]
        return np.concatenate(parts)
    is_vertical = _aspect_ratios(polygons) < VERTICAL_ASPECT_RATIO
    lines[is_vertical] = ((polygons[:, [3, 0]] + polygons[:, [2, 1]]) / 2)[is_vertical]
    word = np.repeat(np.arange(len(lines)), numbers)
    nth = np.arange(len(word)) - (np.cumsum(numbers) - numbers)[word]
    steps = (lines[:, 1] - lines[:, 0]) / np.maximum(numbers, 1)[:, None]
    # Added up as the package does it: characters of whole-pixel boxes often lie on the border of others to the bit.
    return lines[word, 0] + steps[word] / 2 + steps[word] * nth[:, None]


def _middles_of_parts(line: Floats, number: int) -> Floats:
    """(number, 2) middles of equally long parts of an (H, 2) line."""
    reached = np.concatenate([[0], np.cumsum(_distances(line[1:], line[:-1]))])
    wanted = (np.arange(number) + 0.5) * (reached[-1] / max(number, 1))
    return np.stack([np.interp(wanted, reached, line[:, axis]) for axis in range(2)], axis=1)


def _checked_lengths(lengths: npt.ArrayLike, num_targets: int) -> Ints:
    checked = np.asarray(lengths, np.int64).reshape(-1)
    if len(checked) != num_targets:
        raise ValueError(f"lengths has {len(checked)} numbers for {num_targets} targets; one each is needed")
    if (checked < 0).any():
        index = np.argmin(checked)
        raise ValueError(f"target {index} has a length of {checked[index]} characters; 0 or more is needed")
    return checked
