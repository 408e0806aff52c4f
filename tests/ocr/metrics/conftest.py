import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import shapely


class Page(NamedTuple):
    """One annotated image."""

    polygons: list[np.ndarray]
    ignore: np.ndarray
    lengths: np.ndarray
    """Number of characters of each word."""


class PageWithDetections(NamedTuple):
    """The arguments of a metric's `update` for one image."""

    predictions: list[np.ndarray]
    polygons: list[np.ndarray]
    ignore: np.ndarray
    lengths: np.ndarray


def _annotated(data_set: Path) -> list[Page]:
    images = json.loads((data_set / "jsons" / "val.json").read_text())["images"]
    return [
        Page(
            [np.array(word["points"], np.float64) for word in image["words"].values()],
            np.array([word.get("illegibility", False) for word in image["words"].values()], np.bool_),
            np.array([len(word["transcription"]) for word in image["words"].values()]),
        )
        for _, image in sorted(images.items())
    ]


@pytest.fixture(scope="session")
def receipts(sroie: Path) -> list[Page]:
    """The validation images of real receipts."""
    return _annotated(sroie)


@pytest.fixture(scope="session")
def street_scenes(icdar15: Path) -> list[Page]:
    """The validation images of real street scenes, with don't-care words."""
    return _annotated(icdar15)


def _box_around(points: np.ndarray) -> np.ndarray:
    (x0, y0), (x1, y1) = points.min(axis=0), points.max(axis=0)
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])


def _detect_imperfectly(polygons: list[np.ndarray], rng: np.random.Generator) -> list[np.ndarray]:
    """The polygons moved and bent; some dropped, doubled, cut in two, merged with another, or made up; in random order."""
    found = []
    for index, polygon in enumerate(polygons):
        height = min(np.linalg.norm(polygon[1] - polygon[0]), np.linalg.norm(polygon[2] - polygon[1]))
        moved = polygon + rng.normal(0, 0.15 * height, 2) + rng.normal(0, 0.05 * height, polygon.shape)
        fate = rng.random()
        if fate < 0.06:
            continue
        if fate < 0.17:
            top, bottom = (moved[side].mean(axis=0) for side in ([0, 1], [2, 3]))
            found += [np.stack([moved[0], top, bottom, moved[3]]), np.stack([top, moved[1], moved[2], bottom])]
        elif fate < 0.27:
            found.append(_box_around(np.concatenate([polygon, polygons[index - 1]])))
        elif fate < 0.31:
            found += [moved, moved + 5 * height]
        elif fate < 0.36:
            found += [moved, polygon + rng.normal(0, 0.1 * height, polygon.shape)]
        else:
            found.append(moved)
    return [found[index] for index in rng.permutation(len(found)) if shapely.Polygon(np.trunc(found[index])).is_valid]


@pytest.fixture
def with_detections() -> Callable[[list[Page]], list[PageWithDetections]]:
    """Adds imperfect detections to pages, the same in each test."""

    def detect(pages: list[Page]) -> list[PageWithDetections]:
        rng = np.random.default_rng(0)
        return [PageWithDetections(_detect_imperfectly(page.polygons, rng), *page) for page in pages]

    return detect
