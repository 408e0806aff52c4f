"""Histograms of a split."""

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
    if high <= low:
        low, high = low - 0.5, high + 0.5
    # Over a wide range, equal steps would put nearly all into one bar.
    spaced = np.geomspace if limits is None and low > 0 and high > 20 * low else np.linspace
    edges = spaced(low, high, NUM_BINS + 1)
    counts, _ = np.histogram(np.clip(numbers, low, high), edges)
    labels = tuple(f"{_short(first)} to {_short(last)}{unit and ' '}{unit}" for first, last in pairwise(edges))
    space = unit and " "
    note = (
        f"{len(numbers):,} {what}{'s' if len(numbers) != 1 else ''}; median {_short(float(np.median(numbers)))}{space}{unit}, "
        f"from {_short(float(numbers.min()))} to {_short(float(numbers.max()))}"
    )
    return Histogram(title, labels, tuple(int(count) for count in counts), note)


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
