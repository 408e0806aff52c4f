"""Another run is counted in the frame of the upright images, over the images that both runs have."""

import json
from pathlib import Path

import numpy as np
import pytest

from ocr.datasets.manifest import Manifest
from ocr.metrics.cleval import CLEvalCounts
from ocr.metrics.icdar import MatchCounts
from ocr.metrics.review import Review
from ocr.polygons import PolygonBatch
from ocr.postprocess.boxes import Detections
from ocr.report.compare import Comparing, OtherRun
from ocr.report.reviewed import ReviewedImage

NAMES = ("a.jpg", "b.jpg", "c.jpg")
UPRIGHT = [[28, 1], [28, 9], [22, 9], [22, 1]]
STORED = [[1, 2], [9, 2], [9, 8], [1, 8]]
"""The same in a file of 40 x 30 pixels that is to be turned a quarter clockwise: stored (x, y) lands at (30 - y, x)."""


@pytest.fixture
def other(tmp_path: Path) -> OtherRun:
    """A run that has found one of the two texts of a.jpg, the text of b.jpg, and has no c.jpg."""
    words = {"words": {"1": {"points": STORED, "confidence": 0.9}}}
    (tmp_path / "predictions.json").write_text(json.dumps({"images": {"a.jpg": words, "b.jpg": words, "x.jpg": words}}))
    return OtherRun(str(tmp_path))


@pytest.fixture
def manifest() -> Manifest:
    second = [[5, 20], [25, 20], [25, 35], [5, 35]]
    return Manifest(
        image_paths=NAMES,
        filenames=NAMES,
        sample_ids=np.arange(3),
        stored_sizes=np.array([(30, 40)] * 3, np.int32),
        orientations=np.full(3, 6, np.uint8),
        polygons=PolygonBatch.from_lists([[UPRIGHT, second], [UPRIGHT], [UPRIGHT]]),
        num_listed=3,
    )


def image(index: int, matched: int, num_texts: int) -> ReviewedImage:
    """An image on which this run has found `matched` texts, and nothing else."""
    counts = (MatchCounts(matched, num_texts, matched),) * 2
    nothing = lambda: Detections.from_polygons([], np.zeros(0))  # noqa: E731
    return ReviewedImage(
        index, NAMES[index], nothing, nothing, counts, CLEvalCounts(0, 0, 0, 0, 0), Review("", "", (), ())
    )


def test_stored_pixels_are_turned_before_they_are_counted(other: OtherRun, manifest: Manifest) -> None:
    other.count(manifest, (0.5, 0.7))
    assert other.counts_of(0) == (MatchCounts(1, 2, 1),) * 2
    assert other.counts_of(1) == (MatchCounts(1, 1, 1),) * 2
    assert other.counts_of(2) is None


def test_gains_losses_and_missing_images_are_told_apart(other: OtherRun, manifest: Manifest) -> None:
    other.count(manifest, (0.5, 0.7))
    comparing = Comparing(other, manifest, num_thresholds=2, num_changes=5, num_pictured=1)
    for one in (image(0, 2, 2), image(1, 0, 1), image(2, 1, 1)):
        comparing.add(one)
    found = comparing.comparison()
    assert (found.num_images, found.num_missing, found.num_gains, found.num_losses) == (2, 1, 1, 1)
    assert [change.name for change in found.changes] == ["b.jpg", "a.jpg"]  # lost 1, gained a third
    assert [change.gain for change in found.changes] == pytest.approx([-1, 1 / 3])
    assert [one.name for one in found.pictured] == ["b.jpg"]
