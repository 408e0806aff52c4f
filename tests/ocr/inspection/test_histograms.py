"""The bars of histograms, and what their labels say of the values in them."""

from dataclasses import replace

import numpy as np
import pytest

from ocr.datasets.audit import load_manifest
from ocr.datasets.data_checks import Measures
from ocr.datasets.manifest import Manifest
from ocr.datasets.schemas import DatasetConfig
from ocr.inspection.histograms import Histogram, histograms_of


@pytest.fixture(scope="module")
def manifest(drawn) -> Manifest:
    config = DatasetConfig(
        image_path=str(drawn / "images/train"), annotation_path=str(drawn / "jsons/train.json"), audit_memo="off"
    )
    return load_manifest(config, max_megapixels=100)[0]


def histograms(manifest, **changes) -> dict[str, Histogram]:
    measures = replace(Measures.of(manifest), **changes)
    return {one.title: one for one in histograms_of(manifest, measures, 640, {})}


def test_equal_values_are_one_bar_with_their_value(manifest):
    number = len(Measures.of(manifest).sizes)
    found = histograms(manifest, sizes=np.full((number, 2), 1280))["Longest side of the images"]
    assert (found.labels, found.counts) == (("1,280 px",), (number,))


def test_bars_of_counts_hold_whole_numbers(manifest):
    number = len(Measures.of(manifest).num_words)
    words = np.arange(number) % 4 + 3
    found = histograms(manifest, num_words=words)["Words of an image"]
    assert found.labels[:4] == ("3", "4", "5", "6")
    assert sum(found.counts) == number
    words = np.arange(number) * 9
    found = histograms(manifest, num_words=words)["Words of an image"]
    assert all("." not in label for label in found.labels)
    assert sum(found.counts) == number


def test_outer_bars_that_hold_outliers_say_so(manifest):
    number = len(Measures.of(manifest).short_sides)
    heights = np.linspace(10, 20, number)
    heights[[0, -1]] = 0.1, 900
    found = histograms(manifest, short_sides=heights)["Height of words at image_size=640"]
    assert found.labels[0].startswith("up to ")
    assert found.labels[-1].endswith(" px and more")
    assert sum(found.counts) == Measures.of(manifest).legible.sum()
