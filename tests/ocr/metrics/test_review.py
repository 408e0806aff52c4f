"""Reviews of hand-made boxes, and the sweep over thresholds against a match at each one."""

import numpy as np
import pytest

from ocr.metrics.icdar import TargetRegions, match_image
from ocr.metrics.regions import flat_polygons
from ocr.metrics.review import review_image, sweep_thresholds

IOUS = (0.5, 0.7)


def box(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]], np.float32)


def letters(found, texts, ignore=None):
    targets = TargetRegions.from_polygons(texts, np.zeros(len(texts)) if ignore is None else ignore)
    scores = np.linspace(0.99, 0.7, len(found), dtype=np.float32)
    review = review_image(flat_polygons(found, "prediction"), scores, 0, targets, IOUS, sweep_thresholds(0.3, 0.6), 0.6)
    return review[1].found, review[1].texts


WORDS = [box(0, 0, 40, 10), box(50, 0, 90, 10)]


@pytest.mark.parametrize(
    ("found", "texts", "expected"),
    [
        ([box(0, 0, 40, 10)], WORDS[:1], ("h", "h")),
        ([box(0, 0, 40, 17)], WORDS[:1], ("l", "l")),
        ([box(0, 0, 90, 10)], WORDS, ("j", "jj")),
        ([box(0, 0, 18, 10), box(22, 0, 40, 10)], WORDS[:1], ("ss", "s")),
        ([box(0, 40, 40, 50)], WORDS[:1], ("f", "m")),
        ([box(0, 0, 15, 10)], WORDS[:1], ("f", "m")),
        ([box(0, 0, 56, 10)], [box(0, 0, 40, 10), box(42, 0, 56, 10)], ("h", "hj")),
        ([box(0, 0, 30, 10), box(31, 0, 40, 10)], WORDS[:1], ("hs", "h")),
        ([], WORDS, ("", "mm")),
        ([box(0, 0, 40, 10)], [], ("f", "")),
    ],
    ids=["hit", "loose", "joined", "split", "missed", "part", "hit_swallows", "part_beside_hit", "none", "no_text"],
)
def test_each_text_and_detection_has_one_fate(found, texts, expected):
    assert letters(found, texts) == expected


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([box(18, 0, 72, 10)], ("j", "jj")),  # 55 % of each word
        ([box(22, 0, 68, 10)], ("f", "mm")),  # 45 %
        ([box(0, 0, 90, 18)], ("j", "jj")),  # words fill 49 % of it
        ([box(0, 0, 90, 25)], ("f", "mm")),  # 36 %
        ([box(0, 0, 18, 22), box(22, 0, 40, 22)], ("ss", "sm")),  # the word fills 45 % of each
        ([box(0, 0, 18, 28), box(22, 0, 40, 28)], ("ff", "mm")),  # 36 %
        ([box(0, 0, 11, 10), box(20, 0, 31, 10)], ("ss", "sm")),  # together 55 % of the word
        ([box(0, 0, 9, 10), box(20, 0, 29, 10)], ("ff", "mm")),  # 45 %
    ],
)
def test_joined_and_split_begin_at_the_least_shares(found, expected):
    assert letters(found, WORDS) == expected


def test_each_detection_has_its_largest_iou_with_a_legible_text():
    texts = [box(0, 0, 40, 10), box(20, 0, 60, 10), box(100, 0, 140, 10), box(100, 0, 115, 10)]
    found = [box(0, 0, 30, 10), box(100, 0, 140, 10), box(200, 0, 240, 10)]  # the second lies in the don't-care region
    targets = TargetRegions.from_polygons(texts, [False, False, True, False])
    scores = np.array([0.9, 0.8, 0.7], np.float32)
    _, review = review_image(flat_polygons(found, "prediction"), scores, 0, targets, IOUS, np.zeros(1), 0)
    assert review.ious == (0.75, 0, 0)


def test_dont_care_regions_and_what_lies_in_them_are_ignored():
    assert letters([WORDS[0], WORDS[1]], WORDS, ignore=[True, False]) == ("ih", "ih")


def test_a_detection_over_a_word_and_a_dont_care_region_joins_nothing():
    assert letters([box(0, 0, 99, 10)], [box(0, 0, 45, 10), box(50, 0, 95, 10)], ignore=[False, True]) == ("f", "mi")


def scattered(generator: np.random.Generator, number: int, around: list[np.ndarray]) -> list[np.ndarray]:
    """Boxes near others, some of them turned into polygons that are not convex."""
    boxes = []
    for place in generator.integers(len(around), size=number):
        polygon = around[place] + generator.normal(0, 3, (4, 2))
        boxes.append(np.insert(polygon, 2, polygon.mean(axis=0), axis=0) if generator.random() < 0.2 else polygon)
    return boxes


def test_the_sweep_counts_what_a_match_at_each_threshold_counts():
    generator = np.random.default_rng(5)
    texts = [
        box(x, y, x + generator.uniform(8, 50), y + generator.uniform(8, 20))
        for x, y in generator.uniform(0, 200, (25, 2))
    ]
    targets = TargetRegions.from_polygons(texts, generator.random(25) < 0.2)
    found = scattered(generator, 60, texts)
    scores = np.sort(generator.uniform(0.3, 1, 60).astype(np.float32))[::-1]
    thresholds = sweep_thresholds(0.3, 0.625)
    num_below = int(np.count_nonzero(scores < 0.625))
    counts, review = review_image(
        flat_polygons(found, "prediction"), scores, num_below, targets, IOUS, thresholds, 0.625
    )
    assert counts == match_image(found[: 60 - num_below], targets, IOUS)
    assert (len(review.found), len(review.texts)) == (60 - num_below, 25)
    for place, threshold in enumerate(thresholds.tolist()):
        matches = match_image(found[: int(np.count_nonzero(scores >= threshold))], targets, IOUS)
        left = np.sum([numbers for step, *numbers in review.steps if step > place], axis=0, dtype=int)
        expected = [matches[0].num_predictions, matches[0].matched, matches[1].matched]
        assert np.broadcast_to(left, 3).tolist() == expected, threshold


def test_a_score_at_the_present_threshold_stays_on_the_side_that_post_processing_chose():
    scores = np.array([0.6, 0.6], np.float32)  # 0.6000000238: the second one was below before it was rounded
    targets = TargetRegions.from_polygons(WORDS, [False, False])
    thresholds = sweep_thresholds(0.3, 0.6)
    _, review = review_image(flat_polygons(WORDS, "prediction"), scores, 1, targets, IOUS, thresholds, 0.6)
    present = thresholds.tolist().index(0.6)
    assert [step for step, *_ in review.steps] == [present, present + 1]


def test_a_score_exactly_at_a_threshold_is_left_there():
    thresholds = sweep_thresholds(0.3, 0.6)
    targets, found = TargetRegions.from_polygons(WORDS, [False, False]), flat_polygons(WORDS[:1], "prediction")
    _, review = review_image(found, np.array([0.75], np.float32), 0, targets, IOUS, thresholds, 0.6)
    assert [step for step, *_ in review.steps] == [thresholds.tolist().index(0.75) + 1]


def test_the_thresholds_begin_where_regions_can_score_and_contain_the_present_one():
    thresholds = sweep_thresholds(0.25, 0.655).tolist()
    assert (thresholds[0], thresholds[-1]) == (0.25, 0.99)
    assert 0.655 in thresholds
    assert sweep_thresholds(0.3, 0.1).tolist()[:2] == [0.1, 0.3]
