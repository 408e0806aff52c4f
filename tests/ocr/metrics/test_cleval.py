from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import shapely
from cleval.box_types import QUAD
from cleval.data import GlobalResult, accumulate_result, calculate_global_rph
from cleval.eval_functions import evaluation

from ocr.metrics.cleval import CharacterTargets, CLEvalCounts, CLEvalMetric, count_characters
from tests.ocr.metrics.reference import count_characters_reference

PACKAGE_DEFAULTS = SimpleNamespace(
    CASE_SENSITIVE=True,
    VERTICAL_ASPECT_RATIO_THRESH=0.5,
    AREA_PRECISION_CONSTRAINT=0.3,
    RECALL_GRANULARITY_PENALTY_WEIGHT=1.0,
    PRECISION_GRANULARITY_PENALTY_WEIGHT=1.0,
    E2E=False,
    ORIENTATION=False,
    DUMP_SAMPLE_RESULT=False,
)


def box(x0, y0, x1, y1):
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], np.float32)


def flags(*values):
    return np.array(values, np.bool_)


def count(predictions, targets, ignore=None, lengths=None):
    ignore = np.zeros(len(targets), np.bool_) if ignore is None else ignore
    return count_characters(predictions, CharacterTargets.from_polygons(targets, ignore, lengths))


def scores_of(metric):
    return {name: float(value) for name, value in metric.compute().items()}


def evaluated_by_the_package(predictions, targets, ignore, lengths):
    """Returns the package's result for one image; without lengths, with its own pseudo lengths."""
    if lengths is None:
        quads = [QUAD(target.reshape(-1).astype(float), is_dc=False) for target in targets]
        lengths = [quad.pseudo_transcription_length() for quad in quads]
    wanted = [
        QUAD(target.reshape(-1).astype(float), transcription="x" * int(length), is_dc=bool(is_ignored))
        for target, is_ignored, length in zip(targets, ignore, lengths, strict=True)
    ]
    found = [QUAD(prediction.reshape(-1).astype(float), is_dc=False) for prediction in predictions]
    return evaluation(PACKAGE_DEFAULTS, wanted, found)


def counts_of(result):
    of_detection = result.stats.det
    return (
        of_detection.num_char_tp_recall,
        of_detection.num_char_gt,
        of_detection.num_char_det,
        of_detection.gran_score_recall,
        of_detection.gran_score_precision,
    )


WORD = box(0, 0, 100, 20)
"""Pseudo length 0.5 + 5, rounded: 5 characters at x = 10, 30, 50, 70, 90 and y = 10."""


@pytest.mark.parametrize(
    ("what", "predictions", "targets", "ignore", "counts"),
    [
        ("perfect", [WORD], [WORD], flags(0), (5, 5, 5, 0, 0)),
        ("part", [box(0, 0, 60, 20)], [WORD], flags(0), (3, 5, 3, 0, 0)),
        ("split", [box(0, 0, 60, 20), box(60, 0, 100, 20)], [WORD], flags(0), (5, 5, 5, 1, 0)),
        ("split, one character in both", [box(0, 0, 60, 20), box(40, 0, 100, 20)], [WORD], flags(0), (5, 5, 6, 1, 0)),
        ("merge", [box(0, 0, 220, 20)], [WORD, box(120, 0, 220, 20)], flags(0, 0), (10, 10, 10, 0, 1)),
        ("missed", [], [WORD], flags(0), (0, 5, 0, 0, 0)),
        ("false positive", [box(0, 50, 100, 70)], [WORD], flags(0), (0, 5, 1, 0, 0)),
        ("upright false positive", [box(0, 50, 20, 150)], [WORD], flags(0), (0, 5, 5, 0, 0)),
        ("too large", [box(0, 0, 100, 67)], [WORD], flags(0), (0, 5, 1, 0, 0)),
        ("large", [box(0, 0, 100, 66)], [WORD], flags(0), (5, 5, 5, 0, 0)),
        ("don't care", [WORD], [WORD], flags(1), (0, 0, 0, 0, 0)),
        ("30 of 100 don't care", [box(0, 50, 100, 60)], [box(70, 50, 200, 60)], flags(1), (0, 0, 0, 0, 0)),
        ("29 of 100 don't care", [box(0, 50, 100, 60)], [box(71, 50, 200, 60)], flags(1), (0, 0, 1, 0, 0)),
        ("a word on a don't-care region", [WORD], [WORD, box(-50, -50, 200, 50)], flags(0, 1), (5, 5, 5, 0, 0)),
        ("nothing", [], [], flags(), (0, 0, 0, 0, 0)),
        ("nothing to be found", [WORD], [], flags(), (0, 0, 1, 0, 0)),
    ],
)
def test_case_worked_by_hand(what, predictions, targets, ignore, counts):
    assert count(predictions, targets, ignore) == counts
    assert counts_of(evaluated_by_the_package(predictions, targets, ignore, None)) == counts


def test_scores_worked_by_hand():
    metric = CLEvalMetric()
    pieces = [box(0, 0, 60, 20), box(60, 0, 100, 20)]
    metric.update([pieces, []], [[WORD], [WORD]], [flags(0), flags(0)])
    assert scores_of(metric) == pytest.approx({"recall": 4 / 10, "precision": 1.0, "hmean": 4 / 7})


def test_scores_are_zero_without_detections_and_without_text():
    zero = {"hmean": 0, "precision": 0, "recall": 0}
    metric = CLEvalMetric()
    metric.update([], [], [])
    assert scores_of(metric) == zero
    metric.update([[], [WORD]], [[WORD], []], [flags(0), flags()])
    assert scores_of(metric) == zero


def test_penalties_do_not_make_scores_negative():
    slices = [box(x, 0, x + 34, 20) for x in (0, 33, 66)]
    metric = CLEvalMetric()
    metric.update([slices], [[WORD]], [flags(0)], [[1]])
    assert metric.splits == 0  # the only character lies in one slice
    metric.update([[box(0, 0, 250, 20)]], [[box(x, 0, x + 50, 20) for x in (0, 50, 100, 150, 200)]], [flags(*[0] * 5)])
    metric.reset()
    metric.add(CLEvalCounts(found=2, num_target_chars=9, num_predicted_chars=9, splits=3, merges=4))
    assert scores_of(metric) == {"hmean": 0, "precision": 0, "recall": 0}


def test_lengths_place_the_characters_and_do_not_matter_in_dont_care_regions():
    left = [box(0, 0, 50, 20)]
    assert count(left, [WORD], lengths=[20]) == (10, 20, 10, 0, 0)
    assert count(left, [WORD], lengths=[0]) == (0, 0, 1, 0, 0)
    assert count([], [WORD], flags(1), lengths=[20]) == (0, 0, 0, 0, 0)


def test_characters_of_a_tall_quadrilateral_are_stacked():
    tall = box(0, 0, 20, 100)
    assert count([box(0, 0, 20, 60)], [tall]) == (3, 5, 3, 0, 0)


def test_characters_follow_a_bent_word():
    """A quarter of a ring between the radii 80 and 100: its middle line is 141 long, so 7 characters."""
    angles = np.linspace(np.pi, np.pi / 2, 12)[:, None]
    rim = np.hstack([np.cos(angles), -np.sin(angles)])
    ring = np.concatenate([100 * rim, 80 * rim[::-1]]) + 100
    targets = CharacterTargets.from_polygons([ring], flags(0))
    radii = np.linalg.norm(targets.characters - 100, axis=1)
    np.testing.assert_allclose(radii, 90, atol=0.3)
    assert count([ring], [ring]) == (8, 8, 8, 0, 0)
    upper_half = np.concatenate([ring[6:12], ring[12:18]])
    assert count([upper_half], [ring]) == (4, 8, 4, 0, 0)


def test_polygons_with_more_points_count_as_their_quadrilateral():
    with_midpoints = np.array([[0, 0], [50, 0], [100, 0], [100, 20], [50, 20], [0, 20]], np.float32)
    for prediction in (WORD, with_midpoints):
        for target in (WORD, with_midpoints):
            assert count([prediction], [target]) == (5, 5, 5, 0, 0)
    assert count([with_midpoints + 500], [WORD]) == count([WORD + 500], [WORD])
    triangle = np.array([[0, 0], [100, 10], [0, 20]], np.float32)
    assert count([triangle], [triangle]).found == count([], [triangle]).num_target_chars == 10


def test_self_crossing_polygon_is_the_region_it_encloses():
    """The package gives a bow tie no area, so it matches nothing there."""
    bow_tie = np.array([[0, 0], [100, 20], [100, 0], [0, 20]], np.float32)
    assert count([bow_tie], [WORD]).found == 5
    assert counts_of(evaluated_by_the_package([bow_tie], [WORD], flags(0), None))[0] == 0


def test_polygons_without_area_match_nothing():
    line = np.array([[0, 10], [50, 10], [100, 10], [20, 10]], np.float32)
    assert count([line], [WORD]).found == 0
    assert count([WORD], [line]).found == 0
    assert count([WORD], [line], flags(1)) == (0, 0, 1, 0, 0)


@pytest.mark.parametrize("has_text", [True, False])
def test_counts_of_real_pages_equal_those_of_the_package(receipts, street_scenes, with_detections, has_text):
    of_package, metric = GlobalResult(), CLEvalMetric()
    for predictions, targets, ignore, lengths in with_detections(receipts[:24] + street_scenes):
        result = evaluated_by_the_package(predictions, targets, ignore, lengths if has_text else None)
        counts = count(predictions, targets, ignore, lengths if has_text else None)
        assert counts == counts_of(result)
        single = CLEvalMetric()
        single.add(counts)
        of_image = {name: getattr(result.stats.det, name) for name in ("hmean", "precision", "recall")}
        assert scores_of(single) == pytest.approx(of_image, abs=1e-12)
        accumulate_result(of_package, result, is_e2e=False)
        metric.add(counts)
    calculate_global_rph(of_package, is_e2e=False)
    pooled = of_package.stats.det
    assert scores_of(metric) == pytest.approx(
        {"hmean": pooled.hmean, "precision": pooled.precision, "recall": pooled.recall}, abs=1e-12
    )
    assert 0.5 < pooled.hmean < 0.95
    assert min(metric.splits, metric.merges) > 50


def test_counts_of_crowded_pages_equal_those_of_the_package():
    """Overlapping words and don't-care regions, with characters on borders and areas exactly on thresholds."""
    rng = np.random.default_rng(1)
    total = np.zeros(5, int)

    def draw():
        corners, sizes = rng.integers(0, 60, (9, 2)), rng.integers(2, 40, (9, 2))
        quads = [box(*corner, *(corner + size)) for corner, size in zip(corners, sizes, strict=True)]
        quads = [quad + rng.integers(-1, 2, (4, 2)) for quad in quads][rng.integers(0, 10) :]
        return [quad for quad in quads if shapely.Polygon(quad).is_valid]

    for _ in range(300):
        predictions, targets = draw(), draw()
        ignore, lengths = rng.random(len(targets)) < 0.25, rng.integers(0, 12, len(targets))
        counts = count(predictions, targets, ignore, lengths)
        assert counts == counts_of(evaluated_by_the_package(predictions, targets, ignore, lengths))
        total += counts
    assert total.min() > 50


@pytest.mark.parametrize(
    ("prediction", "targets", "lengths", "found"),
    [
        (box(3, 0, 6, 6), [box(0, 0, 6, 6)], [7], 3),  # the fourth character at 2.9999999999999996, not at 3
        (
            box(0, 0, 100, 10),
            [box(-10, 0, 11, 10), box(81, 0, 102, 10)],
            None,
            0,
        ),  # float32(0.11) + float32(0.19) < 0.3
        (box(0, 0, 100, 10), [box(-10, 0, 7, 10), box(77, 0, 102, 10)], None, 4),  # float32(0.07) + float32(0.23) > 0.3
    ],
)
def test_rounding_equals_that_of_the_package(prediction, targets, lengths, found):
    ignore = np.zeros(len(targets), np.bool_)
    counts = count([prediction], targets, ignore, lengths)
    assert counts.found == found
    assert counts == counts_of(evaluated_by_the_package([prediction], targets, ignore, lengths))


def test_annotations_against_themselves_score_almost_one(receipts, street_scenes):
    """Not exactly one: where lines of text overlap, a character lies in two of them."""
    for pages, least in ((receipts, 0.998), (street_scenes, 0.98)):
        metric = CLEvalMetric()
        for polygons, _, _ in pages:
            metric.update([polygons], [polygons], [np.zeros(len(polygons), np.bool_)])
        assert least < scores_of(metric)["hmean"] < 1


def test_two_threads_can_share_prepared_targets(receipts, with_detections):
    pages = with_detections(receipts[:8])
    prepared = [CharacterTargets.from_polygons(*page[1:]) for page in pages]
    predictions = [page.predictions for page in pages]
    serial = list(map(count_characters, predictions, prepared))
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(count_characters, predictions * 4, prepared * 4)) == serial * 4


def test_arguments_are_not_changed_and_are_copied():
    predictions, targets, ignore, lengths = [WORD.copy()], [WORD.copy()], flags(0), np.array([5])
    prepared = CharacterTargets.from_polygons(targets, ignore, lengths)
    counts = count_characters(predictions, prepared)
    np.testing.assert_array_equal([*predictions, *targets], [WORD, WORD])
    assert (ignore.tolist(), lengths.tolist()) == ([False], [5])
    targets[0][:], ignore[:], lengths[:] = 0, True, 0
    assert count_characters(predictions, prepared) == counts == (5, 5, 5, 0, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[]], [[], []], [flags()]), "number of images differs: 1 predictions, 2 targets, 1 ignore, 2 lengths"),
        (([[], []], [[], [WORD]], [flags(), flags()]), "image 1 .*: ignore has 0 flags for 1 targets"),
        (([[]], [[WORD]], [flags(0)], [[3, 4]]), "lengths has 2 numbers for 1 targets; one per target is needed"),
        (([[]], [[WORD, WORD]], [flags(0, 0)], [[3, -4]]), "target 1 has a length of -4 characters; at least 0"),
        (([[np.zeros((2, 2))]], [[]], [flags()]), r"image 0 .*: prediction 0 has shape \(2, 2\); \(n, 2\) with n >= 3"),
        (([[]], [[WORD, WORD * np.nan]], [flags(0, 0)]), "target 1 has coordinates that are not finite"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        CLEvalMetric().update(*arguments)


def random_polygons(rng):
    """Returns up to 9 polygons with 3 to 7 points, some of which cross themselves."""
    sizes = rng.integers(3, 8, 10)[rng.integers(1, 10) :]
    return [rng.uniform(0, 60, 2) + rng.normal(0, 15, (size, 2)) for size in sizes]


def test_counts_of_any_polygons_equal_those_of_the_reference():
    rng = np.random.default_rng(3)
    total = np.zeros(5, int)
    for _ in range(200):
        predictions, targets = random_polygons(rng), random_polygons(rng)
        predictions += [target + rng.normal(0, 1, target.shape) for target in targets[::2]]
        ignore = rng.random(len(targets)) < 0.3
        prepared = CharacterTargets.from_polygons(targets, ignore)
        counts = count_characters(predictions, prepared)
        assert counts == count_characters_reference(
            predictions, targets, ignore, prepared.characters, prepared.target_of_character
        )
        total += counts
    assert total.min() > 20


def test_counts_of_real_pages_equal_those_of_the_reference(receipts, street_scenes, with_detections):
    for predictions, targets, ignore, lengths in with_detections(receipts[:10] + street_scenes):
        prepared = CharacterTargets.from_polygons(targets, ignore, lengths)
        expected = count_characters_reference(
            predictions, targets, ignore, prepared.characters, prepared.target_of_character
        )
        assert count_characters(predictions, prepared) == expected
