from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import shapely
from shapely.geometry import Polygon

from ocr.metrics.icdar import ICDARMetric, TargetRegions, match_image


def box(x0, y0, x1, y1):
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], np.float32)


def flags(*values):
    return np.array(values, np.bool_)


def match(predictions, targets, ignore, iou_threshold=0.5):
    """Returns the counts of one image at one threshold."""
    (counts,) = match_image(predictions, TargetRegions.from_polygons(targets, ignore), [iou_threshold])
    return counts


def scores_of(metric):
    return {name: float(value) for name, value in metric.compute().items()}


def counts_by_the_protocol(predictions, targets, ignore, iou_threshold):
    """Returns (matched, targets, predictions) of one image, computed pair by pair as the protocol says."""
    predictions, targets = [Polygon(p) for p in predictions], [Polygon(p) for p in targets]
    dont_care = {
        number
        for number, detection in enumerate(predictions)
        for region, is_ignored in zip(targets, ignore, strict=True)
        if is_ignored and detection.area > 0 and detection.intersection(region).area / detection.area > 0.5
    }
    taken = set()
    for target, is_ignored in zip(targets, ignore, strict=True):
        if is_ignored:
            continue
        for number, detection in enumerate(predictions):
            if number in taken or number in dont_care:
                continue
            if target.intersection(detection).area / target.union(detection).area > iou_threshold:
                taken.add(number)
                break
    return len(taken), len(targets) - int(sum(ignore)), len(predictions) - len(dont_care)


def counts_from_all_intersections(predictions, targets, ignore, iou_threshold):
    """Returns the same counts, with every target intersected with every detection."""
    found, wanted = (
        shapely.make_valid([Polygon(p) for p in part], method="structure", keep_collapsed=False)
        for part in (predictions, targets)
    )
    overlap = shapely.area(shapely.intersection(wanted[:, None], found[None]))
    uncounted = (overlap[ignore] > 0.5 * shapely.area(found)).any(axis=0)
    fits = overlap > iou_threshold * (shapely.area(wanted)[:, None] + shapely.area(found) - overlap)
    free = ~uncounted
    for of_target in fits[~ignore]:
        free[np.flatnonzero(of_target & free)[:1]] = False
    return int(np.sum(~free & ~uncounted)), int(np.sum(~ignore)), int(np.sum(~uncounted))


def test_case_worked_by_hand():
    targets = [box(0, 0, 100, 20), box(0, 30, 100, 50), box(0, 60, 100, 80), box(0, 90, 100, 110)]
    predictions = [
        box(0, 0, 90, 20),  # IoU 0.9 with the first
        box(0, 30, 40, 50),  # IoU 0.4 with the second
        box(10, 95, 50, 105),  # inside the last, which is don't-care: not counted
        box(200, 0, 300, 20),  # nothing there
    ]
    metric = ICDARMetric()
    metric.update([predictions], [targets], [flags(False, False, False, True)])
    assert (metric.matched, metric.num_targets, metric.num_predictions) == (1, 3, 3)
    assert scores_of(metric) == pytest.approx({"hmean": 1 / 3, "precision": 1 / 3, "recall": 1 / 3})


def test_hmean_is_the_harmonic_mean_of_precision_and_recall():
    metric = ICDARMetric()
    metric.update(
        [[box(0, 0, 10, 10)]], [[box(0, 0, 10, 10), box(20, 0, 30, 10), box(40, 0, 50, 10)]], [flags(0, 0, 0)]
    )
    assert scores_of(metric) == pytest.approx({"precision": 1.0, "recall": 1 / 3, "hmean": 0.5})


@pytest.mark.parametrize(("width", "matched"), [(50, 0), (50.1, 1)])
def test_iou_has_to_be_above_the_threshold(width, matched):
    counts = match([box(0, 0, width, 10)], [box(0, 0, 100, 10)], flags(False))
    assert counts.matched == matched


def test_threshold_can_be_set():
    pair = [box(0, 0, 65, 10)], [box(0, 0, 100, 10)], flags(False)
    assert match(*pair, iou_threshold=0.6).matched == 1
    assert match(*pair, iou_threshold=0.7).matched == 0


@pytest.mark.parametrize(("inside", "counted"), [(50, 1), (50.1, 0)])
def test_detection_more_than_half_inside_a_dont_care_region_is_not_counted(inside, counted):
    counts = match([box(0, 0, 100, 10)], [box(-1000, -1000, inside, 1000)], flags(True))
    assert counts == (0, 0, counted)


def test_two_halves_of_a_detection_in_two_dont_care_regions_do_not_add_up():
    halves = [box(0, 0, 45, 10), box(55, 0, 100, 10)]
    assert match([box(0, 0, 100, 10)], halves, flags(True, True)).num_predictions == 1


def test_detection_of_a_word_inside_a_dont_care_region_is_not_a_match():
    counts = match([box(0, 0, 100, 20)], [box(0, 0, 100, 20), box(-10, -10, 200, 50)], flags(False, True))
    assert counts == (0, 1, 0)


def test_dont_care_region_never_matches():
    half_inside = box(0, 0, 100, 20)
    counts = match([half_inside], [box(50, 0, 110, 20)], flags(True), iou_threshold=0.4)
    assert counts == (0, 0, 1)


def test_one_word_takes_one_detection():
    counts = match([box(0, 0, 100, 20), box(1, 0, 100, 20)], [box(0, 0, 100, 20)], flags(False))
    assert counts == (1, 1, 2)


def test_one_detection_fits_one_word():
    counts = match([box(0, 0, 100, 20)], [box(0, 0, 100, 19), box(0, 1, 100, 20)], flags(False, False))
    assert counts == (1, 2, 1)


def test_targets_in_order_take_the_first_free_detection():
    """Where words overlap this much, the official evaluation depends on the order of the detections."""
    targets, ignore = [box(0, 0, 100, 20), box(0, 4, 100, 24)], flags(False, False)
    fits_both, fits_first = box(0, 2, 100, 22), box(0, -8, 100, 12)
    assert match([fits_both, fits_first], targets, ignore, iou_threshold=0.4).matched == 1
    assert match([fits_first, fits_both], targets, ignore, iou_threshold=0.4).matched == 2
    metric = ICDARMetric(iou_threshold=0.4)
    metric.update([[fits_both, fits_first]], [targets], [ignore], scores=[np.array([0.7, 0.9])])
    assert metric.matched == 2


def test_images_without_detections_or_targets():
    assert match([], [], flags()) == (0, 0, 0)
    assert match([], [box(0, 0, 9, 9)], flags(False)) == (0, 1, 0)
    assert match([box(0, 0, 9, 9)], [], flags()) == (0, 0, 1)
    metric = ICDARMetric()
    metric.update([], [], [])
    assert scores_of(metric) == {"hmean": 0, "precision": 0, "recall": 0}
    metric.update([[], [box(0, 0, 9, 9)]], [[box(0, 0, 9, 9)], []], [flags(False), flags()])
    assert scores_of(metric) == {"hmean": 0, "precision": 0, "recall": 0}


def test_polygons_without_area_are_counted_and_match_nothing():
    line = np.array([[0, 0], [50, 0], [100, 0], [20, 0]], np.float32)
    assert match([line, box(0, 0, 100, 10)], [line, box(0, 0, 100, 10)], flags(False, False)) == (1, 2, 2)


def test_self_crossing_polygon_is_the_region_it_encloses():
    bow_tie = np.array([[0, 0], [10, 10], [10, 0], [0, 10]], np.float32)  # two triangles, left and right
    left, right = np.array([[0, 0], [5, 5], [0, 10]]), np.array([[10, 0], [10, 10], [5, 5]])
    assert match([bow_tie], [box(0, 0, 10, 10)], flags(False), iou_threshold=0.49).matched == 1
    assert match([bow_tie], [box(0, 0, 10, 10)], flags(False), iou_threshold=0.51).matched == 0
    assert match([left, right], [bow_tie], flags(False), iou_threshold=0.49).matched == 1


@pytest.mark.parametrize("iou_threshold", [0.5, 0.7])
def test_counts_on_real_pages_are_those_of_the_protocol(receipts, street_scenes, with_detections, iou_threshold):
    total = np.zeros(3, int)
    pages = with_detections(receipts[:12] + street_scenes)
    for predictions, targets, ignore, _ in pages:
        valid = [p for p in predictions if Polygon(p).is_valid]
        counts = match(valid, targets, ignore, iou_threshold=iou_threshold)
        assert counts == counts_by_the_protocol(valid, targets, ignore, iou_threshold)
        total += counts
    matched, num_targets, num_predictions = total
    assert 0.3 * num_targets < matched < 0.9 * num_targets
    assert num_predictions < sum(len(page.polygons) for page in pages)


def random_boxes(rng):
    """Returns up to 11 small boxes of whole pixels, many of which overlap by exactly half."""
    corners, sizes = rng.integers(0, 12, (12, 2)), rng.integers(1, 8, (12, 2))
    return [box(*corner, *(corner + size)) for corner, size in zip(corners, sizes, strict=True)][rng.integers(1, 12) :]


def random_polygons(rng):
    """Returns up to 11 polygons with 3 to 6 points, many of which cross themselves."""
    sizes = rng.integers(3, 7, 12)[rng.integers(1, 12) :]
    return [rng.uniform(0, 60, 2) + rng.normal(0, 15, (size, 2)) for size in sizes]


@pytest.mark.parametrize("draw", [random_boxes, random_polygons])
def test_skipping_pairs_because_of_their_boxes_changes_nothing(draw):
    rng = np.random.default_rng(5)
    thresholds = (0.1, 0.5)
    num_matched = 0
    for _ in range(300):
        predictions, targets = draw(rng), draw(rng)
        ignore = rng.random(len(targets)) < 0.3
        counts = match_image(predictions, TargetRegions.from_polygons(targets, ignore), thresholds)
        assert counts == tuple(
            counts_from_all_intersections(predictions, targets, ignore, threshold) for threshold in thresholds
        )
        num_matched += sum(each.matched for each in counts)
    assert num_matched > 200


def test_several_thresholds_at_once_equal_single_ones(receipts, street_scenes, with_detections):
    thresholds = (0.7, 0.5, 0.85)
    matched = np.zeros(3, int)
    for predictions, targets, ignore, _ in with_detections(receipts[:8] + street_scenes):
        counts = match_image(predictions, TargetRegions.from_polygons(targets, ignore), thresholds)
        assert counts == tuple(match(predictions, targets, ignore, threshold) for threshold in thresholds)
        matched += [each.matched for each in counts]
    assert matched[1] > matched[0] > matched[2] > 0


def test_two_threads_can_share_prepared_targets(receipts, with_detections):
    pages = with_detections(receipts[:8])
    prepared = [TargetRegions.from_polygons(page.polygons, page.ignore) for page in pages]
    predictions = [page.predictions for page in pages]
    match_prepared = partial(match_image, iou_thresholds=[0.5])
    serial = list(map(match_prepared, predictions, prepared))
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(match_prepared, predictions * 4, prepared * 4)) == serial * 4


def test_prepared_targets_are_copies():
    polygons, ignore = [box(0, 0, 10, 10)], flags(False)
    targets = TargetRegions.from_polygons(polygons, ignore)
    polygons[0][:] = 0
    ignore[:] = True
    assert match_image([box(0, 0, 10, 10)], targets, [0.5]) == ((1, 1, 1),)


def test_order_of_detections_does_not_matter_where_words_do_not_overlap(street_scenes, with_detections):
    rng = np.random.default_rng(1)
    for predictions, targets, ignore, _ in with_detections(street_scenes):
        shuffled = [predictions[index] for index in rng.permutation(len(predictions))]
        assert match(predictions, targets, ignore) == match(shuffled, targets, ignore)


def test_annotations_score_one_against_themselves(receipts, street_scenes):
    for pages in (receipts, street_scenes):
        metric = ICDARMetric(iou_threshold=0.9)
        for targets, ignore, _ in pages:
            legible = [polygon for polygon, is_ignored in zip(targets, ignore, strict=True) if not is_ignored]
            metric.update([legible], [legible], [np.zeros(len(legible), np.bool_)])
        assert scores_of(metric)["hmean"] > 0.999


def test_arguments_are_not_changed():
    predictions, targets, ignore = [box(0, 0, 9, 9)], [box(1, 0, 9, 9)], flags(False)
    ICDARMetric().update([predictions], [targets], [ignore], scores=[np.array([0.5])])
    np.testing.assert_array_equal(predictions, [box(0, 0, 9, 9)])
    np.testing.assert_array_equal(targets, [box(1, 0, 9, 9)])
    assert ignore.tolist() == [False]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[]], [[], []], [flags()]), "number of images differs: 1 predictions, 2 targets, 1 ignore"),
        (([[], []], [[], [box(0, 0, 1, 1)]], [flags(), flags()]), "image 1 .*: ignore has 0 flags for 1 targets"),
        (([[np.zeros((2, 2))]], [[]], [flags()]), r"image 0 .*: prediction 0 has shape \(2, 2\); \(n, 2\) with n >= 3"),
        (([[]], [[box(0, 0, 1, np.nan)]], [flags(False)]), "target 0 has coordinates that are not finite"),
        (([[box(0, 0, 1, 1)]], [[]], [flags()], [np.zeros(2)]), r"scores have shape \(2,\) for 1 predictions"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        ICDARMetric().update(*arguments)
