import sys
from pathlib import Path

import pytest

from benchmarks.detectors.processes import DetectorProcess, find_in_turn
from ocr.errors import InputError

PROGRAM = """
import json, sys
print(json.dumps({"versions": {}, "loaded_kb": 1}), flush=True)
for line in sys.stdin:
    answer = {"cpu_seconds": 0.5, "polygons": [[[0, 0], [len(line), 0], [0, 9]]], "scores": [0.5], "peak_kb": 2}
    print(json.dumps(answer), flush=True)
"""


def detector(name: str, program: str = PROGRAM) -> DetectorProcess:
    return DetectorProcess(name, [sys.executable, "-S", "-c", program])


def test_every_detector_finds_text_on_every_page_in_every_round() -> None:
    detectors = [detector("first"), detector("second")]
    found = find_in_turn(detectors, [Path("a.jpg"), Path("bb.jpg")], rounds=3)
    for each in detectors:
        each.close()
        assert each.facts["loaded_kb"] == 1
        assert [[page.polygons[0][1, 0] for page in pages] for pages in found[each.name]] == [[6, 7]] * 3
    assert found["first"][0][0].peak_bytes == 2048


def test_a_detector_that_ends_is_named() -> None:
    with pytest.raises(InputError, match=r"^broken: the process ended"):
        detector("broken", "import sys; sys.exit(1)")
