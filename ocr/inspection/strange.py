"""Finds the images of a split that a person should look at first: the hardest and the strangest."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ocr.datasets.data_checks import Measures

_MOST_DEVIATION = 8.0
"""Deviations beyond this many robust standard deviations count alike."""


class Chosen(NamedTuple):
    """An image to show."""

    place: int
    """Position among the measured images, as in all arrays of `Measures`."""
    reasons: tuple[str, ...]
    """Reasons why it is hard or strange, the strongest first; empty without any."""


class _Feature(NamedTuple):
    """One kind of strangeness."""

    form: str
    """Text with a place for the value."""
    values: npt.NDArray[np.float64]
    scores: npt.NDArray[np.float64]

    def text(self, index: int) -> str:
        """Returns what to say about an image."""
        return self.form.format(float(self.values[index]))


def strangest(measures: Measures, image_size: int, min_side: float, number: int) -> list[Chosen]:
    """Returns at most `number` images, hardest and strangest first. Ties are spread evenly over the set."""
    num_images = len(measures.sizes)
    features = _features(measures, image_size, min_side)
    scores = np.stack([feature.scores for feature in features], axis=1)
    most = np.sort(scores, axis=1)[:, ::-1][:, :3]
    total = most @ np.array([1.0, 0.5, 0.25])[: most.shape[1]]
    spread = np.argsort(np.argsort((np.arange(num_images) * 0.618034) % 1.0))
    order = np.lexsort((spread, -np.round(total, 3)))[:number]
    chosen = []
    for index in order.tolist():
        ranked = np.argsort(-scores[index])[:3]
        chosen.append(
            Chosen(index, tuple(features[place].text(index) for place in ranked if scores[index, place] >= 1.5))
        )
    return chosen


def _features(measures: Measures, image_size: int, min_side: float) -> list[_Feature]:
    """Returns each kind of strangeness, with a value and a score for each image."""
    num_images = len(measures.sizes)
    height, width = measures.sizes[:, 0].astype(np.float64), measures.sizes[:, 1].astype(np.float64)
    features = [
        _Feature("{:,.0f} px long", np.maximum(height, width), _deviation(np.log(np.maximum(height, width)))),
        _Feature("{:.2f} times as wide as high", width / height, _deviation(np.log(width / height))),
    ]
    if len(measures.ignore):
        words = measures.num_words
        legible_of = _sum_of(measures, measures.legible)
        small = measures.legible & (measures.heights_of_longest * image_size < min_side)
        small_share = _sum_of(measures, small) / np.maximum(legible_of, 1)
        ignored_share = 1 - legible_of / np.maximum(words, 1)
        areas = measures.boxes.prod(axis=1, dtype=np.float64)
        largest = np.zeros(num_images)
        np.maximum.at(largest, measures.image_of_word, areas / (height * width)[measures.image_of_word])
        tall = measures.boxes[:, 1] > 1.5 * measures.boxes[:, 0]
        tall_share = _sum_of(measures, tall) / np.maximum(words, 1)
        features += [
            _Feature("{:,.0f} words", words.astype(np.float64), np.where(words > 0, _deviation(np.log1p(words)), 4.0)),
            _Feature(f"{{:.0f}} % of the words below {min_side:g} px", 100 * small_share, 5 * small_share),
            _Feature("{:.0f} % don't-care", 100 * ignored_share, np.where(words > 0, 3 * ignored_share, 0.0)),
            _Feature("a word covers {:.0f} %", 100 * largest, _deviation(largest) * (largest > 0.1)),
            _Feature("{:.0f} % of the words stand on end", 100 * tall_share, 5 * tall_share),
        ]
    return features


def _sum_of(measures: Measures, is_counted: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    return np.bincount(measures.image_of_word[is_counted], minlength=len(measures.sizes)).astype(np.float64)


def _deviation(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Returns how many robust standard deviations each value is from the median."""
    distance = np.abs(values - np.median(values))
    # A floor keeps sets of nearly equal images from calling a hair's breadth strange.
    scale = max(1.4826 * float(np.median(distance)), 0.05)
    return np.minimum(distance / scale, _MOST_DEVIATION) * 0.6
