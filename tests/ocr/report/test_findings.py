"""The totals over the images of an evaluation, worked by hand."""

from collections import Counter

import numpy as np
import pytest

from ocr.datasets.manifest import Manifest
from ocr.metrics.cleval import CLEvalCounts
from ocr.metrics.icdar import MatchCounts
from ocr.metrics.review import HIT, IGNORED, LOOSE, MISSED, Review
from ocr.polygons import PolygonBatch
from ocr.postprocess.boxes import Detections
from ocr.report.findings import FATES, Findings
from ocr.report.reviewed import ReviewedImage

LINE = [[0, 0], [45, 0], [45, 10], [0, 10]]
UPRIGHT_LINE = [[0, 0], [0, 30], [-10, 30], [-10, 0]]
"""Polygon whose first edge goes down."""
THRESHOLDS = np.array([0.4, 0.5, 0.6])


def image(index: int, counts: MatchCounts, stricter: MatchCounts, review: Review) -> ReviewedImage:
    def nothing() -> Detections:
        return Detections.from_polygons([], np.zeros(0))

    characters = CLEvalCounts(1, 2, 3, 4, 5)
    return ReviewedImage(index, f"{index}.jpg", nothing, nothing, (counts, stricter), characters, review)


@pytest.fixture
def findings() -> Findings:
    """Two images: one has a loose hit and a don't-care text, the other a text that is missed."""
    names = ("0.jpg", "1.jpg")
    manifest = Manifest(
        image_paths=names,
        filenames=names,
        sample_ids=np.arange(2),
        stored_sizes=np.array([(100, 200)] * 2, np.int32),
        orientations=np.ones(2, np.uint8),
        polygons=PolygonBatch.from_lists([[LINE, LINE], [UPRIGHT_LINE]], [[False, True], [False]]),
        num_listed=2,
    )
    # Two detections with one match are left at the first threshold only, and one that matches at all three.
    found = Review("lff", LOOSE + IGNORED, (0.6, 0.0, 0.0), ((1, 2, 1, 0), (3, 1, 1, 1)))
    images = [
        image(0, MatchCounts(1, 2, 1), MatchCounts(0, 2, 1), found),
        image(1, MatchCounts(0, 1, 0), MatchCounts(0, 1, 0), Review("", MISSED, (), ())),
    ]
    return Findings.of(images, manifest, THRESHOLDS, image_size=100, num_worst=1, num_rows=5)


def test_scores_at_a_threshold_are_those_of_the_detections_that_are_left(findings):
    looser, stricter = ([scores.hmean for scores in row] for row in findings.sweep.scores)
    assert looser == pytest.approx([2 * 2 / (3 + 3), 2 * 1 / (3 + 1), 2 * 1 / (3 + 1)])
    assert stricter == pytest.approx([2 * 1 / (3 + 3), 2 * 1 / (3 + 1), 2 * 1 / (3 + 1)])


def test_of_equally_good_thresholds_the_nearest_to_the_present_one_is_the_best(findings):
    assert [findings.sweep.best(present) for present in (0.4, 0.6)] == [0, 0]
    assert [findings.sweep.best(present, 1) for present in (0.4, 0.6)] == [1, 2]
    assert findings.sweep.at(0.48) == 1


def test_texts_are_counted_by_size_shape_and_angle_without_dont_care_regions(findings):
    heights, shapes, angles = findings.fates
    for fates in findings.fates:
        assert fates.counts.sum(axis=1).tolist() == [1, 0, 0, 1]
    hit, missed = FATES.index(HIT), FATES.index(MISSED)
    assert heights.labels[int(heights.counts[hit].argmax())] == "4 to 6 px"  # 10 pixels of an image twice as large
    assert shapes.labels[int(shapes.counts[hit].argmax())] == "4 to 6"
    assert angles.labels[int(angles.counts[hit].argmax())] == "0 to 1°"
    assert angles.labels[int(angles.counts[missed].argmax())] == "80 to 100°"


def test_the_worst_image_comes_first_and_the_rest_is_summed(findings):
    assert [one.name for one in findings.worst] == ["1.jpg"]
    assert [row.name for row in findings.rows] == ["1.jpg", "0.jpg"]
    assert (findings.num_images, findings.counts.whole[0].counts()) == (2, MatchCounts(1, 3, 1))
    assert findings.characters == CLEvalCounts(2, 4, 6, 8, 10)
    assert findings.letters == Counter({LOOSE: 1, IGNORED: 1, MISSED: 1})
    assert findings.letters_of_found == Counter("lff")
