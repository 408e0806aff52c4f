"""The words of the report about detectors that differ clearly, or by chance."""

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.detectors.processes import Found
from benchmarks.detectors.report import DetectorResults, report, row_of
from benchmarks.detectors.scoring import Pages
from benchmarks.environment import environment

NUM_PAGES, NUM_TEXTS = 20, 10


def boxes(places) -> list[np.ndarray]:
    """Returns a box of 8 x 8 pixels at each place of a row."""
    return [np.array([[x, 0], [x + 8, 0], [x + 8, 8], [x, 8]], np.float32) for x in (10 * place for place in places)]


@pytest.fixture
def pages() -> Pages:
    texts = boxes(range(NUM_TEXTS))
    return Pages(
        "pages",
        [Path(f"{number}.jpg") for number in range(NUM_PAGES)],
        [texts] * NUM_PAGES,
        [[False] * NUM_TEXTS] * NUM_PAGES,
    )


def found(num_missed) -> list[Found]:
    """Returns the results of a detector that misses this many texts on each page."""
    return [
        Found(boxes(range(NUM_TEXTS - missed)), [0.9] * (NUM_TEXTS - missed), cpu_seconds=0.1, peak_bytes=1)
        for missed in num_missed
    ]


def conclusions(pages: Pages, **detectors: list[Found]) -> list[str]:
    """Returns what the report says of detectors beside the first one."""
    names = list(detectors)
    rows = [
        row_of(pages, name, name == names[0], [results], detectors[names[0]], {"loaded_kb": 1})
        for name, results in detectors.items()
    ]
    machine = environment(torch.device("cpu"), "benchmarks.detectors") | {"command": ["detectors"]}
    document = report(DetectorResults(machine, rows=rows))
    assert "± " in document.tables[0].rows[0][1]
    return document.conclusions[1]


def test_only_a_difference_beyond_its_margin_is_called_better_or_worse(pages):
    ours = np.arange(NUM_PAGES) % 4
    chance = ours.copy()
    chance[:3] = [3, 0, 3]
    lines = conclusions(pages, ours=found(ours), chance=found(chance), weak=found(ours + 2), strong=found(ours * 0))
    by_rival = {line.split(" beside ")[1].split()[0]: line for line in lines if " beside " in line}
    assert "ours beside chance is not clearly different at IoU 0.5" in by_rival["chance"]
    assert "is better at IoU 0.5" in by_rival["weak"]
    assert "is worse at IoU 0.5" in by_rival["strong"]


def test_equal_detectors_have_no_margin_and_no_winner(pages):
    ours = found(np.arange(NUM_PAGES) % 4)
    (line,) = (line for line in conclusions(pages, ours=ours, same=ours) if " beside " in line)
    assert "not clearly different at IoU 0.5 (0.919, 0.919) and not clearly different at IoU 0.7" in line
