"""One TextDetector shared by threads: are the results those of one thread, and does its memory stay flat?"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ocr import TextDetector
from ocr.detector import DetectedText
from ocr.machine import resident_set


@dataclass(frozen=True)
class Sharing:
    """Results of a shared detector."""

    num_threads: int
    num_pages: int
    image_size: int
    num_different: int
    """Pages whose polygons or scores differ in any bit from those of one thread."""
    resident_bytes: list[int]
    """Resident set after each tenth of the pages."""


def share(checkpoint: Path, pages: Sequence[Path], num_threads: int, num_pages: int, image_size: int) -> Sharing:
    """Returns the results of `num_pages` calls, over and over the same pages, from several threads at once."""
    detector = TextDetector(checkpoint, device="cpu", precision="32-true", image_size=image_size)
    expected = [detector(page) for page in pages]
    num_different = 0
    resident: list[int] = []
    with ThreadPoolExecutor(num_threads) as threads:
        for tenth in np.array_split(np.arange(num_pages), 10):
            chosen = tenth % len(pages)
            for index, found in zip(chosen, threads.map(lambda place: detector(pages[place]), chosen), strict=True):
                num_different += not _same(found, expected[index])
            resident.append(resident_set())
    return Sharing(num_threads, num_pages, image_size, num_different, resident)


def _same(found: DetectedText, expected: DetectedText) -> bool:
    return np.array_equal(found.scores, expected.scores) and all(
        np.array_equal(*pair) for pair in zip(found.polygons, expected.polygons, strict=True)
    )
