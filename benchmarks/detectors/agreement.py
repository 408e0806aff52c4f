"""TextDetector, predict.py and exported files on the same pages: how far apart are their polygons and scores?"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ocr.config import LoaderName, PredictConfig
from ocr.inference import predict
from ocr.polygons import FloatArray

MOST_PIXELS, MOST_SCORE = 0.5, 1e-3
"""Two texts are the same if their corners and scores differ by no more."""

Texts = tuple[list[FloatArray], FloatArray]
"""Polygons and scores of a page."""


@dataclass(frozen=True)
class Agreement:
    """The texts of all pages by two ways."""

    num_texts: int
    """By the first way."""
    num_others: int
    num_same: int
    """Texts with a partner within `MOST_PIXELS` and `MOST_SCORE`."""
    most_pixels: float
    """Largest distance of a corner from its partner's, of partners within 5 px of each other."""
    most_score: float
    """Largest difference of their scores."""
    unpaired_scores: list[float]
    """Scores of texts, by either way, without a partner within 5 px: those next to a threshold may come and go."""

    @property
    def holds(self) -> bool:
        """Whether every text has the same partner."""
        return self.num_texts == self.num_others == self.num_same


def compare(first: Sequence[Texts], second: Sequence[Texts], rounding: tuple[float, float] = (0.0, 0.0)) -> Agreement:
    """Returns how far the texts of the same pages by two ways agree.

    Args:
        rounding: by how much corners (pixels) and scores were rounded, which does not count.
    """
    pixels: list[float] = []
    scores: list[float] = []
    unpaired: list[float] = []
    for one, other in zip(first, second, strict=True):
        free = list(range(len(other[0])))
        for polygon, score in zip(*one, strict=True):
            distances = [_distance(polygon, other[0][index]) for index in free]
            if not distances or min(distances) > 5:
                unpaired.append(float(score))
                continue
            partner = free.pop(int(np.argmin(distances)))
            pixels.append(min(distances))
            scores.append(abs(float(score) - float(other[1][partner])))
        unpaired += [float(other[1][index]) for index in free]
    limits = (MOST_PIXELS + rounding[0], MOST_SCORE + rounding[1])
    is_same = [far <= limits[0] and apart <= limits[1] for far, apart in zip(pixels, scores, strict=True)]
    return Agreement(
        sum(len(polygons) for polygons, _ in first),
        sum(len(polygons) for polygons, _ in second),
        sum(is_same),
        max(pixels, default=0.0),
        max(scores, default=0.0),
        unpaired,
    )


def _distance(polygon: FloatArray, other: FloatArray) -> float:
    """Returns the largest distance between corners, whichever corner either begins with; infinite if their numbers differ."""
    if polygon.shape != other.shape:
        return float("inf")
    turned = [np.roll(other, shift, axis=0) for shift in range(len(other))]
    return min(float(np.linalg.norm(polygon - points, axis=1).max()) for points in turned)


def predicted(checkpoint: Path, pages: Sequence[Path], loader: LoaderName, folder: Path) -> list[Texts]:
    """Returns what predict.py writes for the pages, one page a batch."""
    files = [os.path.abspath(page) for page in pages]
    config = PredictConfig(
        checkpoint=str(checkpoint),
        images=tuple(files),
        output=str(folder),
        loader=loader,
        device="cpu",
        precision="32-true",
        batch_size=1,
        draw=False,
    )
    predict(config, folder)
    images = json.loads((folder / "predictions.json").read_text())["images"]
    common = os.path.commonpath([os.path.dirname(file) for file in files])
    return [_texts(images[Path(file).relative_to(common).as_posix()]) for file in files]


def _texts(entry: Mapping[str, Mapping[str, Mapping[str, object]]]) -> Texts:
    words = entry["words"].values()
    return (
        [np.asarray(word["points"], np.float32) for word in words],
        np.asarray([word["confidence"] for word in words], np.float32),
    )
