from typing import Any

import pytest

from ocr.datasets.formats.dont_care import is_ignore_label


@pytest.mark.parametrize(
    "label", ["###", "*", "ignore", "Ignore", "don't care", "don\u2019t-care", "DONT_CARE", "illegible"]
)
def test_labels_of_dont_care_regions(label: str) -> None:
    assert is_ignore_label(label)


@pytest.mark.parametrize("label", ["text", "", None, 1, "ignorance", "####", ["ignore"]])
def test_other_labels_are_text(label: Any) -> None:
    assert not is_ignore_label(label)
