"""Totals over the reviews of an evaluation: constant in the number of images."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ocr.datasets.manifest import Manifest
from ocr.metrics.cleval import CLEvalCounts
from ocr.metrics.icdar import MatchCounts, Scores
from ocr.metrics.pooled_counts import PooledSplit
from ocr.metrics.regions import Floats
from ocr.metrics.review import HIT, IGNORED, JOINED, LOOSE, MISSED, SPLIT
from ocr.polygons import PolygonBatch
from ocr.report.reviewed import Least, ReviewedImage, rank
from ocr.targets.outline import short_sides

FATES = (HIT, JOINED, SPLIT, MISSED)
"""Outcomes of a text. A loose hit counts as a hit."""
_EDGES = {
    "Height at the size of the input": ("px", (0, 4, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64, np.inf)),
    "Length to height": ("", (0, 1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, np.inf)),
    "Angle to the horizontal": ("°", (0, 1, 2, 5, 10, 20, 45, 80, 100, 180.1)),
}
"""Unit and edges of the bins by title."""


class Sweep(NamedTuple):
    """Scores at T values of box_thresh."""

    thresholds: Floats
    """(T,) ascending."""
    scores: tuple[tuple[Scores, ...], ...]
    """T scores for each IoU threshold."""

    def best(self, present: float, place: int = 0) -> int:
        """Returns the position of the threshold with the highest hmean; of equal ones the nearest to the present threshold.

        Args:
            place: of the IoU threshold.
        """
        hmeans = [scores.hmean for scores in self.scores[place]]
        distances = np.abs(self.thresholds - present).tolist()
        return min(range(len(hmeans)), key=lambda at: (-hmeans[at], distances[at]))

    def at(self, threshold: float) -> int:
        """Returns the position of a threshold of the sweep."""
        return int(np.argmin(np.abs(self.thresholds - threshold)))


@dataclass(frozen=True)
class Fates:
    """Outcomes of the texts in each bin of a measure."""

    title: str
    labels: tuple[str, ...]
    """(B,) range of each bin."""
    counts: npt.NDArray[np.int64]
    """(len(FATES), B)."""


class Row(NamedTuple):
    """An image in the table of all."""

    name: str
    matches: tuple[MatchCounts, ...]
    """Counts at each IoU threshold."""
    texts: Counter[str]
    """Number of texts by what happened to them."""
    found: Counter[str]
    """The same of detections."""

    @classmethod
    def of(cls, image: ReviewedImage) -> "Row":
        """Returns the row of an image."""
        return cls(image.name, image.matches, Counter(image.review.texts), Counter(image.review.found))


@dataclass(frozen=True)
class Findings:
    """The results of all images together."""

    counts: PooledSplit
    characters: CLEvalCounts
    """Summed over the images."""
    letters: Counter[str]
    """Number of texts by what happened to them."""
    letters_of_found: Counter[str]
    """The same of detections."""
    sweep: Sweep
    fates: tuple[Fates, ...]
    worst: tuple[ReviewedImage, ...]
    """The worst images, worst first."""
    rows: tuple[Row, ...]
    """The same with less about each, for more images."""

    @property
    def num_images(self) -> int:
        """Number of images."""
        return self.counts.whole[0].num_images

    @classmethod
    def of(
        cls,
        images: Iterable[ReviewedImage],
        manifest: Manifest,
        thresholds: Floats,
        image_size: int,
        num_worst: int,
        num_rows: int,
    ) -> "Findings":
        """Adds up the images, which are read once.

        Args:
            thresholds: those of the reviews' steps, from `sweep_thresholds`.
            image_size: longest side of the input, in whose pixels the heights of the texts are counted.
            num_worst, num_rows: number of images to keep, and of rows.
        """
        sums = _Sums(manifest, thresholds, num_worst, num_rows)
        for image in images:
            sums.add(image)
            sums.add_fates(image.review.texts, image.index, image_size)
        return sums.findings(thresholds)


class _Sums:
    def __init__(self, manifest: Manifest, thresholds: Floats, num_worst: int, num_rows: int) -> None:
        self._manifest = manifest
        self.counts = PooledSplit(manifest.set_sizes, num_thresholds=2)
        self.characters = CLEvalCounts(0, 0, 0, 0, 0)
        self.letters, self.letters_of_found = Counter[str](), Counter[str]()
        self.steps = np.zeros((len(thresholds) + 1, 3), np.int64)
        self.fates = {title: np.zeros((len(FATES), len(edges) - 1), np.int64) for title, (_, edges) in _EDGES.items()}
        self.worst: Least[ReviewedImage] = Least(num_worst)
        self.rows: Least[Row] = Least(num_rows)

    def add(self, image: ReviewedImage) -> None:
        self.counts.add(image.index, image.matches)
        self.characters = CLEvalCounts(*map(sum, zip(self.characters, image.characters, strict=True)))
        self.letters.update(image.review.texts)
        self.letters_of_found.update(image.review.found)
        for step, *numbers in image.review.steps:
            self.steps[step] += numbers
        key = rank(image.index, image.matches[0])
        self.worst.add(key, image)
        self.rows.add(key, Row.of(image))

    def add_fates(self, texts: str, index: int, image_size: int) -> None:
        if not texts:
            return
        polygons = self._manifest.polygons.select([index])
        scale = image_size / max(int(self._manifest.original_sizes[index].max()), 1)
        measures = _measures(polygons, scale)
        fates = texts.replace(LOOSE, HIT)
        for (title, (_, edges)), values in zip(_EDGES.items(), measures, strict=True):
            bins = np.searchsorted(edges, values, side="right") - 1
            for fate, place in zip(fates, np.clip(bins, 0, len(edges) - 2).tolist(), strict=True):
                if fate != IGNORED:
                    self.fates[title][FATES.index(fate), place] += 1

    def findings(self, thresholds: Floats) -> Findings:
        num_texts = self.counts.whole[0].counts().num_targets
        # A detection of `step` s is left at the thresholds 0 to s - 1.
        left = np.cumsum(self.steps[::-1], axis=0)[::-1][1:]
        sweep = Sweep(
            thresholds,
            tuple(
                tuple(Scores.of(MatchCounts(int(row[1 + place]), num_texts, int(row[0]))) for row in left)
                for place in range(2)
            ),
        )
        fates = tuple(Fates(title, _labels(*_EDGES[title]), counts) for title, counts in self.fates.items())
        return Findings(
            self.counts,
            self.characters,
            self.letters,
            self.letters_of_found,
            sweep,
            fates,
            tuple(self.worst.kept),
            tuple(self.rows.kept),
        )


def _measures(polygons: PolygonBatch, scale: float) -> tuple[Floats, Floats, Floats]:
    """Returns height, length to height, and angle to the horizontal of each polygon.

    Height and length are the sides of the rectangle with the polygon's area and perimeter, as the target maps measure text. The
    angle is that of the first edge, from 0 to 180 degrees: a word that is upside down has 180.
    """
    heights = short_sides(polygons).astype(np.float64)
    firsts, vertices = polygons.vertex_starts[:-1], polygons.vertices.astype(np.float64)
    following = np.arange(1, len(vertices) + 1)
    following[polygons.vertex_starts[1:] - 1] = firsts
    edges = vertices[following] - vertices
    half_perimeters = np.add.reduceat(np.hypot(edges[:, 0], edges[:, 1]), firsts) / 2
    angles = np.abs(np.degrees(np.arctan2(edges[firsts, 1], edges[firsts, 0])))
    return heights * scale, np.maximum(half_perimeters - heights, heights) / np.maximum(heights, 1e-6), angles


def _labels(unit: str, edges: tuple[float, ...]) -> tuple[str, ...]:
    def text(low: float, high: float) -> str:
        if high == np.inf:
            return f"{low:g}{unit} and more" if unit == "°" else f"{low:g} {unit} and more".replace("  ", " ")
        return f"{low:g} to {high:.0f}{unit}" if unit == "°" else f"{low:g} to {high:g} {unit}".strip()

    return tuple(text(low, high) for low, high in pairwise(edges))
