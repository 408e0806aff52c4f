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

from ocr.metrics.pooled import PooledMetric
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
"""A detection belongs to a region if at least this fraction of its area lies in the region."""
VERTICAL_ASPECT_RATIO = 0.5
"""A quadrilateral with a smaller ratio of width to height contains vertical text."""
MAX_PSEUDO_LENGTH = 10
"""Largest number of characters assumed for a region with unknown text."""
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

    regions: Regions
    """Regions of T targets; words are cut out of don't-care regions."""
    ignore: Bools
    """(T,) don't-care flags."""
    characters: Floats
    """(C, 2) positions of the characters of all targets, (x, y)."""
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
        return cls(
            regions=_with_words_cut_out(Regions.from_flat(_truncated(flat)), ignored),
            ignore=ignored,
            characters=np.concatenate(characters),
            target_of_character=np.concatenate(owners),
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


def count_characters(predictions: Polygons, targets: CharacterTargets) -> CLEvalCounts:
    """Returns the counts of one image. A pure function: any thread may call it.

    Args:
        predictions: (n, 2) polygons in pixels of the image; the first side of a quadrilateral is the top.

    Raises:
        ValueError: a prediction has fewer than 3 points or a coordinate that is not finite.
    """
    flat = _truncated(flat_polygons(predictions, "prediction"))
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
    unmatched = np.flatnonzero(is_counted & ~matches.any(axis=0)).tolist()
    return CLEvalCounts(
        found=int(np.sum(was_found)),
        num_target_chars=int(np.sum(~targets.ignore[targets.target_of_character])),
        num_predicted_chars=int(np.sum(is_matched))
        + _num_false_characters([predictions[index] for index in unmatched]),
        splits=int(np.maximum(matches.sum(axis=1) - 1, 0).sum()),
        merges=int(np.maximum(matches.sum(axis=0) - 1, 0).sum()),
    )


def _area_precision(targets: CharacterTargets, detected: Regions, held: Ints) -> npt.NDArray[np.float32]:
    """Returns (T, D), the fraction of each detection's area in each target; 0 where a word has no character in the detection."""
    at_most = box_overlap(targets.regions, detected)
    rows, columns = np.nonzero((at_most > 0) & (targets.ignore[:, None] | (held > 0)) & (detected.areas > 0))
    # Single precision as in the package: it decides cases that lie exactly on the threshold.
    part_inside = np.zeros(held.shape, np.float32)
    part_inside[rows, columns] = overlap_of_pairs(targets.regions, detected, rows, columns) / detected.areas[columns]
    return part_inside


def _in_dont_care(ignore: Bools, part_inside: npt.NDArray[np.float32], held: Ints) -> Bools:
    """Returns (D,), whether a detection lies in one don't-care region, or in several together whose characters it contains."""
    parts = part_inside[ignore]
    in_several = np.sum(parts, axis=0, where=held[ignore] > 0)
    return (parts >= AREA_PRECISION).any(axis=0) | (in_several >= AREA_PRECISION)


def _matches(part_inside: npt.NDArray[np.float32], held: Ints, is_word: Bools, is_counted: Bools) -> Bools:
    """Returns (T, D), whether a target is a word that matches a counted detection."""
    can_match = is_word[:, None] & is_counted
    holds = held > 0
    belongs = holds & (part_inside >= AREA_PRECISION)
    # The only detection of its word, uncounted ones included. If it has several words, `is_merged` applies as well.
    is_alone = belongs & (belongs.sum(axis=1) == 1)[:, None] & can_match
    holds, belongs = holds & can_match, belongs & can_match
    is_split = belongs & (belongs.sum(axis=1) >= 2)[:, None]
    joint_part = np.sum(part_inside, axis=0, where=holds, dtype=np.float64)
    is_merged = holds & (holds.sum(axis=0) >= 2) & (joint_part >= AREA_PRECISION)
    return is_alone | is_split | is_merged


def _characters_inside(characters: Floats, detections: FlatPolygons, regions: Regions) -> tuple[Ints, Ints]:
    """Returns index pairs of a character and a detection that contains it.

    Left and upper borders count as inside, other borders do not.
    """
    x, y = characters[:, 0, None], characters[:, 1, None]
    x0, y0, x1, y1 = regions.boxes.T
    characters_near, near = np.nonzero((x >= x0) & (x <= x1) & (y >= y0) & (y <= y1))
    first, last = _edges(detections)
    x, y = x[characters_near], y[characters_near]
    first, last = first[near], last[near]
    # Counts the edges that a ray to the right crosses.
    is_level = (first[..., 1] <= y) & (y < last[..., 1])
    rise, run = last[..., 1] - first[..., 1], last[..., 0] - first[..., 0]
    is_right = (x - first[..., 0]) * rise < run * (y - first[..., 1])
    is_inside = np.sum(is_level & is_right, axis=1) % 2 == 1
    return characters_near[is_inside], near[is_inside]


def _edges(polygons: FlatPolygons) -> tuple[Floats, Floats]:
    """Returns (P, N, 2) upper and lower ends of the edges; polygons with fewer than N edges are padded with edges of length 0."""
    counts = polygons.num_vertices
    longest = int(counts.max(initial=0))
    starts = np.cumsum(counts) - counts
    steps = np.arange(longest + 1)
    around = polygons.vertices[starts[:, None] + np.where(steps < counts[:, None], steps, 0)]
    first, last = around[:, :-1], around[:, 1:]
    is_downward = (first[..., 1] <= last[..., 1])[..., None]
    return np.where(is_downward, first, last), np.where(is_downward, last, first)


def _truncated(polygons: FlatPolygons) -> FlatPolygons:
    return polygons._replace(vertices=np.trunc(polygons.vertices))


def _with_words_cut_out(regions: Regions, ignore: Bools) -> Regions:
    """Returns the regions with the words cut out of don't-care regions."""
    if not ignore.any():
        return regions
    geometries = regions.geometries.copy()
    geometries[ignore] = shapely.difference(geometries[ignore], shapely.union_all(geometries[~ignore]))
    return Regions.from_geometries(geometries)


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


def _num_false_characters(polygons: Polygons) -> int:
    """Returns the number of characters that unmatched detections cost."""
    if not polygons:
        return 0
    quads = np.stack([polygon if len(polygon) == 4 else _rectangle(polygon) for polygon in polygons])
    # The package divides height by width here, not the longer side by the shorter as for targets.
    return int(_rounded_up(1 / (EPSILON + _aspect_ratios(quads.astype(np.float64)))).sum())


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
