"""One process per detector. Each page goes to all of them in turn, so that a busy machine slows all alike."""

import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ocr.errors import InputError
from ocr.polygons import FloatArray

ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")}


@dataclass(frozen=True)
class Found:
    """The text of one page, in pixels of the file, and what it cost."""

    polygons: list[FloatArray]
    scores: FloatArray
    cpu_seconds: float
    peak_bytes: int
    """Largest resident set of the process so far."""


class DetectorProcess:
    """A running detector.

    Args:
        name: for tables.
        command: starts the process, which answers like own_process.py.

    Raises:
        InputError: it ended; its own error stands above on the terminal.
    """

    def __init__(self, name: str, command: Sequence[str]) -> None:
        self.name = name
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | ONE_THREAD
        )
        self.facts = self._answer()
        """Versions, resident set after loading, and the detector's own facts."""

    def find(self, page: Path) -> Found:
        """Returns the text of a page."""
        print(page, file=self._process.stdin, flush=True)
        answer = self._answer()
        polygons = [np.asarray(polygon, np.float32) for polygon in answer["polygons"]]
        scores = np.asarray(answer["scores"], np.float32)
        return Found(polygons, scores, answer["cpu_seconds"], 1024 * answer["peak_kb"])

    def close(self) -> None:
        """Ends the process."""
        self._process.communicate()

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline() if self._process.stdout is not None else ""
        if not line:
            raise InputError(f"{self.name}: the process ended; its error stands above")
        answer: dict[str, Any] = json.loads(line)
        return answer


def find_in_turn(
    detectors: Sequence[DetectorProcess], pages: Sequence[Path], rounds: int
) -> dict[str, list[list[Found]]]:
    """Returns, for each detector, the results of each round, a list over the pages. One page before warms each detector up."""
    for detector in detectors:
        detector.find(pages[0])
    found: dict[str, list[list[Found]]] = {detector.name: [[] for _ in range(rounds)] for detector in detectors}
    for number in range(rounds):
        for page in pages:
            for detector in detectors:
                found[detector.name][number].append(detector.find(page))
    return found
