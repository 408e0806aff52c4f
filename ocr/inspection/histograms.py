"""Histograms of a split."""

import math
from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from ocr.datasets.data_checks import Measures
from ocr.datasets.manifest import Manifest
from ocr.report.histograms import Histogram

NUM_BINS = 24


def histograms_of(
    manifest: Manifest, measures: Measures, image_size: int, letters: Mapping[str, int]
) -> list[Histogram]:
    """Returns the histograms of a split; those of words only if it has any.

    Args:
        letters: number of letters by script, empty without transcriptions.
    """
    found = [
        _of_values("Longest side of the images", measures.sizes.max(axis=1, initial=0), "px", "image"),
        _of_values(
            "Width to height of the images", measures.sizes[:, 1] / np.maximum(measures.sizes[:, 0], 1), "", "image"
        ),
    ]
    if len(measures.ignore):
        legible = measures.legible
        found += [
            _of_values("Words of an image", measures.num_words, "", "image"),
            _of_values(
                f"Height of words at image_size={image_size}",
                measures.heights_of_longest[legible] * image_size,
                "px",
                "word",
            ),
            _of_values("Length to height of words", measures.aspects[legible], "", "word"),
            _of_values("Reading direction", _directions(manifest), "°", "word", limits=(-180.0, 180.0)),
        ]
    if letters:
        most = sorted(letters.items(), key=lambda item: -item[1])[:12]
        total = sum(letters.values())
        note = ", ".join(f"{name} {count / total:.0%}" for name, count in most[:3])
        names, counts = tuple(name for name, _ in most), tuple(count for _, count in most)
        found.append(Histogram("Letters of the transcriptions", names, counts, note))
    return [histogram for histogram in found if sum(histogram.counts)]


def _of_values(
    title: str, values: npt.ArrayLike, unit: str, what: str, limits: tuple[float, float] | None = None
) -> Histogram:
    numbers = np.asarray(values, np.float64)
    numbers = numbers[np.isfinite(numbers)]
    if not len(numbers):
        return Histogram(title, (), (), "")
    # The rarest half percent at each end share the outer bars, or else one outlier would leave the others in a single bar.
    low, high = limits or (float(np.quantile(numbers, 0.005)), float(np.quantile(numbers, 0.995)))
    least, most = float(numbers.min()), float(numbers.max())
    if low == high:
        low, high = least, most
    are_counts = not unit and bool((numbers % 1 == 0).all())
    edges = _edges(low, high, are_counts=are_counts)
    counts, _ = np.histogram(np.clip(numbers, edges[0], edges[-1]), edges)
    space = unit and " "
    note = (
        f"{len(numbers):,} {what}{'s' if len(numbers) != 1 else ''}; median {_short(float(np.median(numbers)))}{space}{unit}, "
        f"from {_short(least)} to {_short(most)}; highest bar {counts.max():,}"
    )
    return Histogram(
        title, _labels(edges, least, most, unit, are_counts=are_counts), tuple(int(count) for count in counts), note
    )


def _edges(low: float, high: float, *, are_counts: bool) -> npt.NDArray[np.float64]:
    """Returns the limits of the bars. Those of counts are between whole numbers; equal values have one bar."""
    if high <= low:
        return np.array([low, low])
    if are_counts:
        step = math.ceil((math.ceil(high) - math.floor(low) + 1) / NUM_BINS)
        return np.arange(math.floor(low), math.ceil(high) + step + 1, step).astype(np.float64) - 0.5
    # Over a wide range, equal steps would put nearly all into one bar.
    spaced = np.geomspace if low > 0 and high > 20 * low else np.linspace
    return np.asarray(spaced(low, high, NUM_BINS + 1), np.float64)


def _labels(
    edges: npt.NDArray[np.float64], least: float, most: float, unit: str, *, are_counts: bool
) -> tuple[str, ...]:
    """Returns the range of each bar. The outer bars may hold values beyond theirs, and say so."""
    unit = f" {unit}" if unit else ""
    ranges = [(float(first), float(last)) for first, last in pairwise(edges)]
    if are_counts and least < most:
        ranges = [(math.ceil(first), math.floor(last)) for first, last in ranges]
    labels = [
        f"{_short(first)}{unit}" if first == last else f"{_short(first)} to {_short(last)}{unit}"
        for first, last in ranges
    ]
    if least < edges[0]:
        labels[0] = f"up to {_short(ranges[0][1])}{unit}"
    if most > edges[-1]:
        labels[-1] = f"{_short(ranges[-1][0])}{unit} and more"
    return tuple(labels)


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 or value == round(value) else f"{value:.3g}"


def _directions(manifest: Manifest) -> npt.NDArray[np.float64]:
    """Returns the angle of the first edge of each polygon in degrees: 0 is to the right, 90 down.

    The first edge of a word with four corners is its upper one; a long set is represented by its first two million words.
    """
    polygons = manifest.polygons
    starts = polygons.vertex_starts[:-1][:2_000_000]
    edges = (polygons.vertices[starts + 1] - polygons.vertices[starts]).astype(np.float64)
    return np.degrees(np.arctan2(edges[:, 1], edges[:, 0]))
