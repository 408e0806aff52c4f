import json

import cv2
import numpy as np
import pytest
import shapely
import torch

from dali_pipelines.geometry import scaling, transform_points
from ocr.datasets.orientation import original_from_stored, stored_from_original
from ocr.datasets.plan import letterbox
from ocr.polygons import PolygonBatch
from ocr.postprocess.boxes import (
    Detections,
    detect,
    detect_letterboxed,
    detect_levels,
    moved_detections,
    warn_of_cut_regions,
)
from ocr.postprocess.config import PostprocessConfig
from ocr.postprocess.levels import probabilities_of_levels, to_levels
from ocr.postprocess.unclip import distance_to_area, unclip_distance
from ocr.targets.config import TargetConfig
from ocr.targets.maps import make_targets
from ocr.targets.reference import make_targets_reference
from tests.ocr.postprocess import reference

CONFIG = PostprocessConfig()
EVERYTHING = PostprocessConfig(min_side=0, box_thresh=0)
HALF_A_LEVEL = 0.7 / 254
"""Largest quantisation error of a probability above the default threshold."""


def found_as_drawn(prob_map, map_stride=1, config=EVERYTHING):
    """Returns detections before unclip; a shrink ratio of 1 shrinks nothing."""
    return detect(prob_map, map_stride=map_stride, shrink_ratio=1.0, config=config)


def box(x0, y0, x1, y1):
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], np.float32)


def rotated_box(center, width, height, degrees):
    radians = np.deg2rad(degrees)
    turn = np.array([[np.cos(radians), np.sin(radians)], [-np.sin(radians), np.cos(radians)]])
    return (box(-width / 2, -height / 2, width / 2, height / 2) @ turn + center).astype(np.float32)


def arc_box(center, radius, height, start, end):
    """Returns text bent along a circle."""
    angles = np.linspace(start, end, 12)
    ray = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    outline = np.concatenate([ray * (radius + height / 2), ray[::-1] * (radius - height / 2)])
    return (outline + center).astype(np.float32)


def shrunk_map(polygons, size, shrink_ratio, map_stride=1):
    config = TargetConfig(shrink_ratio=shrink_ratio, map_stride=map_stride)
    return make_targets_reference(PolygonBatch.from_lists([polygons]), size, config).shrink_map[0].numpy()


def best_ious(truth, found):
    """Returns the IoU of the best detection for each true polygon."""
    a, b = (np.array([shapely.Polygon(p) for p in polygons], object) for polygons in (truth, found))
    overlap = shapely.area(shapely.intersection(a[:, None], b[None]))
    return (overlap / (shapely.area(a)[:, None] + shapely.area(b)[None] - overlap)).max(axis=1)


def scaled_annotations(data_set, num_images, longest_side):
    """Yields (polygons, size) in the input frame, without words lower than 8 px, as in the targets."""
    images = json.loads((data_set / "jsons" / "val.json").read_text())["images"]
    for name in sorted(images)[:num_images]:
        height, width = images[name]["img_h"], images[name]["img_w"]
        scale = longest_side / max(height, width)
        words = [np.array(word["points"], np.float32) * scale for word in images[name]["words"].values()]
        yield (
            [word for word in words if min(cv2.minAreaRect(word)[1]) >= 8.5 and shapely.Polygon(word).is_valid],
            (-(-round(height * scale) // 32) * 32, -(-round(width * scale) // 32) * 32),
        )


def round_trip_ious(data_set, num_images, shrink_ratio, config=CONFIG, blur=0.0, longest_side=1024):
    ious = []
    for polygons, size in scaled_annotations(data_set, num_images, longest_side):
        prob_map = shrunk_map(polygons, size, shrink_ratio)
        if blur:
            prob_map = cv2.GaussianBlur(prob_map, (0, 0), blur)
        found = detect(prob_map, map_stride=1, shrink_ratio=shrink_ratio, config=config)
        ious.append(best_ious(polygons, found.polygons))
    return np.concatenate(ious)


def levels_of(prob_map, config=CONFIG):
    return to_levels(torch.from_numpy(prob_map), config.bin_thresh).numpy()


def quads_one_by_one(prob_map, shrink_ratio, config):
    """Slow reference on probabilities: returns (corners in any order, score) of each region, best first."""
    num_labels, labels = cv2.connectedComponents((prob_map > config.bin_thresh).astype(np.uint8), connectivity=8)
    found = []
    for label in range(1, num_labels):
        region = (labels == label).astype(np.uint8)
        score = prob_map[region > 0].mean()
        area = prob_map[cv2.dilate(region, np.ones((3, 3), np.uint8)) > 0].sum()
        center, (width, height), angle = cv2.minAreaRect(cv2.findNonZero(region))
        border = np.clip(distance_to_area(width * height, 2 * (width + height), area), -1, 0.5)
        width, height = width + 2 * border, height + 2 * border
        distance = unclip_distance(
            width * height, 2 * (width + height), map_stride=1, shrink_ratio=shrink_ratio, config=config
        )
        sides = width + 2 * distance, height + 2 * distance
        if score >= config.box_thresh:
            found.append((cv2.boxPoints((center, sides, angle)) + 0.5, score, min(sides)))
    best = sorted(found, key=lambda quad: -quad[1])[: config.max_candidates]
    return [(corners, score) for corners, score, thickness in best if thickness >= config.min_side]


def soft_lines(data_set, num_images):
    """Returns blurred shrink maps of real annotations, with uneven probabilities inside."""
    noise = np.random.default_rng(0).normal(size=(256, 256)).astype(np.float32)
    for polygons, size in scaled_annotations(data_set, num_images, 640):
        uneven = cv2.resize(cv2.GaussianBlur(noise, (0, 0), 2), size[::-1])
        yield cv2.GaussianBlur(shrunk_map(polygons, size, 0.6), (0, 0), 0.8) * (0.9 + 0.1 * np.tanh(4 * uneven))


def noisy_map():
    noise = np.random.default_rng(0).normal(size=(160, 200)).astype(np.float32)
    return 1 / (1 + np.exp(-6 * cv2.GaussianBlur(noise, (0, 0), 2) / 0.15 - 1))


@pytest.mark.parametrize("output", ["quad", "polygon"])
@pytest.mark.parametrize("map_stride", [1, 4])
def test_mask_of_w_by_h_pixels_gives_a_box_of_w_by_h_pixels(map_stride, output):
    prob_map = np.zeros((40, 60), np.float32)
    prob_map[10:17, 20:45] = 1
    config = PostprocessConfig(min_side=0, output=output)
    (polygon,) = found_as_drawn(prob_map, map_stride, config).polygons
    np.testing.assert_allclose(polygon, box(20, 10, 45, 17) * map_stride, atol=1e-3)
    assert polygon.dtype == np.float32


@pytest.mark.parametrize(("width", "height"), [(1, 1), (9, 1), (1, 9), (2, 2)])
@pytest.mark.parametrize("output", ["quad", "polygon"])
def test_thin_and_tiny_regions_keep_their_exact_size(width, height, output):
    prob_map = np.zeros((20, 20), np.float32)
    prob_map[5 : 5 + height, 7 : 7 + width] = 0.9999
    (polygon,) = found_as_drawn(prob_map, config=PostprocessConfig(min_side=0, output=output)).polygons
    np.testing.assert_allclose(polygon, box(7, 5, 7 + width, 5 + height), atol=1e-3)


def test_unclipped_line_worked_by_hand():
    # 100 x 20 shrunk by 7 px with r = 0.4 is 86 x 6.
    prob_map = np.zeros((60, 160), np.float32)
    prob_map[27:33, 37:123] = 1
    (polygon,) = detect(prob_map, map_stride=1, shrink_ratio=0.4, config=CONFIG).polygons
    np.testing.assert_allclose(polygon, box(30, 20, 130, 40), atol=1e-4)
    classic = PostprocessConfig(unclip_ratio=1.5)
    (polygon,) = detect(prob_map, map_stride=1, shrink_ratio=0.4, config=classic).polygons
    distance = 86 * 6 * 1.5 / 184
    np.testing.assert_allclose(polygon, box(37 - distance, 27 - distance, 123 + distance, 33 + distance), atol=1e-4)
    larger = PostprocessConfig(unclip_offset=3)
    (polygon,) = detect(prob_map, map_stride=1, shrink_ratio=0.4, config=larger).polygons
    np.testing.assert_allclose(polygon, box(27, 17, 133, 43), atol=1e-4)
    (polygon,) = detect(prob_map, map_stride=2, shrink_ratio=0.4, config=larger).polygons
    np.testing.assert_allclose(polygon, box(57, 37, 263, 83), atol=2e-4)


@pytest.mark.parametrize("output", ["quad", "polygon"])
def test_boxes_that_a_negative_offset_leaves_nothing_of_are_dropped(output):
    prob_map = np.zeros((60, 160), np.float32)
    prob_map[10:16, 20:106] = 1  # unclipped 100 x 20
    prob_map[40:46, 20:26] = 1  # unclipped about 10 x 10
    config = PostprocessConfig(output=output, unclip_offset=-7, min_side=0)
    (polygon,) = detect(prob_map, map_stride=1, shrink_ratio=0.4, config=config).polygons
    np.testing.assert_allclose(sorted(polygon.tolist()), sorted(box(20, 10, 106, 16).tolist()), atol=1e-3)


@pytest.mark.parametrize("shrink_ratio", [0.4, 0.6])
@pytest.mark.parametrize(("output", "median"), [("quad", 0.98), ("polygon", 0.95)])
def test_drawn_rectangles_are_recovered(shrink_ratio, output, median):
    rng = np.random.default_rng(0)
    config = PostprocessConfig(output=output)
    ious = []
    for height in (12, 16, 24, 40, 60):
        for degrees in (0, 3, -7, 20, 45, 90, 133):
            polygon = rotated_box(rng.uniform(200, 201, 2), rng.uniform(4, 6) * height, height, degrees)
            prob_map = shrunk_map([polygon], (416, 416), shrink_ratio)
            (found,) = detect(prob_map, map_stride=1, shrink_ratio=shrink_ratio, config=config).polygons
            ious.append(best_ious([polygon], [found])[0])
            # Rounding to whole pixels: an error of up to 0.4 px in the height of 0.16 h that is left at r = 0.4.
            assert ious[-1] >= 1 - 2.5 / height
    assert np.median(ious) >= median


def test_bent_text_is_recovered_as_a_polygon():
    polygon = arc_box(np.array([250.3, 250.6]), 120, 24, 0.3, 2.0)
    prob_map = shrunk_map([polygon], (512, 512), 0.4)
    config = PostprocessConfig(output="polygon")
    found = detect(prob_map, map_stride=1, shrink_ratio=0.4, config=config)
    assert best_ious([polygon], found.polygons)[0] > 0.93
    assert len(found.polygons[0]) < 40


@pytest.mark.parametrize(("shrink_ratio", "fifth_percentile"), [(0.4, 0.82), (0.6, 0.87)])
def test_real_receipts_are_recovered(sroie, shrink_ratio, fifth_percentile):
    ious = round_trip_ious(sroie, 3, shrink_ratio)
    assert np.median(ious) >= 0.92
    assert np.percentile(ious, 5) >= fifth_percentile


def test_a_soft_border_hardly_moves_a_box(sroie):
    """At threshold 0.3 a border blurred by one pixel moves outwards by half a pixel, which is 3 px of height at r = 0.4."""
    ious = round_trip_ious(sroie, 3, 0.4, PostprocessConfig(box_thresh=0.3), blur=1.0)
    assert np.median(ious) >= 0.9
    assert np.percentile(ious, 5) >= 0.77


def test_classic_unclip_is_too_tight_for_lines(sroie):
    ious = round_trip_ious(sroie, 2, 0.4, PostprocessConfig(unclip_ratio=1.5))
    assert np.median(ious) < 0.8


def test_real_scenes_are_recovered_better_as_polygons_than_as_quads(icdar15):
    quads = round_trip_ious(icdar15, 8, 0.4)
    polygons = round_trip_ious(icdar15, 8, 0.4, PostprocessConfig(output="polygon"))
    assert np.median(quads) >= 0.9
    assert np.median(polygons) >= 0.93
    assert np.percentile(polygons, 5) > np.percentile(quads, 5) + 0.05


@pytest.mark.parametrize("output", ["quad", "polygon"])
def test_outlines_are_valid_clockwise_and_start_at_the_upper_edge(icdar15, output):
    for polygons, size in scaled_annotations(icdar15, 4, 1024):
        config = PostprocessConfig(output=output)
        found = detect(shrunk_map(polygons, size, 0.4), map_stride=1, shrink_ratio=0.4, config=config)
        assert len(found.polygons) == len(polygons)
        for polygon in found.polygons:
            assert shapely.is_valid(shapely.Polygon(polygon))
            assert not shapely.is_ccw(shapely.LinearRing(polygon * (1, -1)))
            assert len(polygon) >= 4


@pytest.mark.parametrize("degrees", [-40, -5, 0, 5, 40])
def test_first_edge_of_a_quad_runs_along_the_text(degrees):
    drawn = rotated_box(np.array([150.0, 150.0]), 180, 40, degrees)
    (polygon,) = detect(shrunk_map([drawn], (320, 320), 0.6), map_stride=1, shrink_ratio=0.6, config=CONFIG).polygons
    np.testing.assert_allclose(polygon, drawn, atol=2.5)


def test_scores_are_mean_probabilities_best_first():
    prob_map = np.full((40, 40), 0.1, np.float32)
    prob_map[2:6, 2:12] = 0.7
    prob_map[10:14, 2:12] = 0.9
    prob_map[20:24, 2:12] = np.linspace(0.4, 0.6, 10)
    prob_map[30:34, 2:12] = [[0.4], [0.9], [0.9], [0.4]]
    found = found_as_drawn(prob_map)
    np.testing.assert_allclose(found.scores, [0.9, 0.7, 0.65, 0.5], atol=HALF_A_LEVEL)
    assert [round(float(polygon[:, 1].mean())) for polygon in found.polygons] == [12, 4, 32, 22]
    assert found.scores.dtype == np.float32
    above = PostprocessConfig(min_side=0, box_thresh=0.66)
    np.testing.assert_allclose(found_as_drawn(prob_map, config=above).scores, [0.9, 0.7], atol=HALF_A_LEVEL)


@pytest.mark.parametrize("config", [EVERYTHING, PostprocessConfig(min_side=9, box_thresh=0.5, max_candidates=20)])
def test_levels_give_the_regions_of_their_probabilities(sroie, config):
    """Adjacent regions, regions at the border and regions in the holes of others; all sums are exact."""
    rounding, num_regions = probabilities_of_levels(config.bin_thresh), 0
    ring = np.zeros((60, 60), np.float32)
    cv2.rectangle(ring, (0, 5), (50, 50), 0.8, 3)
    ring[25:30, 15:40] = 0.7
    ring[31:36, 15:40] = 0.75
    ring[30, 15:40] = 0.2  # between the two
    for prob_map in (noisy_map(), ring, *soft_lines(sroie, 2)):
        levels = levels_of(prob_map)
        expected = quads_one_by_one(rounding[levels], 0.6, config)
        found = detect_levels(levels, map_stride=1, shrink_ratio=0.6, config=config)
        num_regions += len(expected)
        np.testing.assert_allclose(found.scores, [score for _, score in expected], atol=1e-6)
        for (corners, score), polygon in zip(expected, found.polygons, strict=True):
            nearest = np.abs(polygon[:, None] - corners).max(axis=2).min(axis=1)
            assert nearest.max() < 2e-3, (corners, score, polygon)
    assert num_regions > 20


def test_levels_move_a_box_by_less_than_a_hundredth_of_a_pixel(sroie, icdar15):
    distances, differences = [], []
    for prob_map in (*soft_lines(sroie, 3), *soft_lines(icdar15, 4)):
        expected = quads_one_by_one(prob_map, 0.6, CONFIG)
        found = detect(prob_map, map_stride=1, shrink_ratio=0.6, config=CONFIG)
        assert len(found.polygons) == len(expected)
        for corners, score in expected:
            each = [np.abs(polygon[:, None] - corners).max(axis=2).min(axis=1).max() for polygon in found.polygons]
            distances.append(min(each))
            differences.append(abs(found.scores[int(np.argmin(each))] - score))
    assert len(distances) > 80
    assert max(distances) < 0.01
    assert np.median(distances) < 0.002
    assert max(differences) < HALF_A_LEVEL


@pytest.mark.parametrize("output", ["quad", "polygon"])
def test_levels_may_be_a_view_and_are_not_changed(sroie, output):
    (prob_map,) = soft_lines(sroie, 1)
    config = PostprocessConfig(output=output)
    levels = levels_of(prob_map)
    padded = np.zeros((levels.shape[0] + 40, levels.shape[1] + 64), np.uint8)
    padded[: levels.shape[0], : levels.shape[1]] = levels
    before = padded.copy()
    whole = detect(prob_map, map_stride=1, shrink_ratio=0.6, config=config)
    cut = padded[: levels.shape[0], : levels.shape[1]]
    cut.flags.writeable = False
    found = detect_levels(cut, map_stride=1, shrink_ratio=0.6, config=config)
    assert len(whole.polygons) > 20
    for polygon, same in zip(found.polygons, whole.polygons, strict=True):
        np.testing.assert_array_equal(polygon, same)
    np.testing.assert_array_equal(found.scores, whole.scores)
    np.testing.assert_array_equal(padded, before)


@pytest.mark.parametrize("bad", [np.zeros((1, 8, 8), np.uint8), np.zeros((8, 8), np.float32)])
def test_arrays_other_than_a_map_of_levels_are_refused(bad):
    with pytest.raises(ValueError, match=rf"levels are {bad.dtype} of shape .*one map \(Hm, Wm\) of uint8 is needed"):
        detect_levels(bad, map_stride=1, shrink_ratio=0.4, config=CONFIG)


def test_a_hundred_thousand_regions_are_scored():
    """An untrained network can give this; OpenCV's 16-bit labels would overflow."""
    levels = np.zeros((640, 640), np.uint8)
    levels[::2, ::2] = 200
    levels[100, 200] = 255
    config = PostprocessConfig(min_side=0, box_thresh=0, max_candidates=50)
    found = detect_levels(levels, map_stride=1, shrink_ratio=1.0, config=config)
    assert len(found.polygons) == 50
    np.testing.assert_allclose(found.polygons[0], box(200, 100, 201, 101), atol=1e-3)


def test_best_candidates_are_kept_not_the_first():
    prob_map = np.zeros((100, 40), np.float32)
    for row, probability in enumerate([0.7, 0.65, 0.95, 0.8, 0.9]):
        prob_map[20 * row + 4 : 20 * row + 12, 4:36] = probability
    config = PostprocessConfig(max_candidates=2)
    found = detect(prob_map, map_stride=1, shrink_ratio=0.6, config=config)
    np.testing.assert_allclose(found.scores, [0.95, 0.9], atol=HALF_A_LEVEL)


def test_min_side_counts_input_pixels():
    prob_map = np.zeros((20, 40), np.float32)
    prob_map[5:8, 5:30] = 1
    config = PostprocessConfig(min_side=10)
    assert len(found_as_drawn(prob_map, 1, config).polygons) == 0
    assert len(found_as_drawn(prob_map, 4, config).polygons) == 1


def test_text_inside_a_ring_is_found():
    prob_map = np.zeros((60, 60), np.float32)
    cv2.rectangle(prob_map, (5, 5), (50, 50), 1.0, 3)
    prob_map[25:30, 15:40] = 1
    assert len(found_as_drawn(prob_map).polygons) == 2


@pytest.mark.parametrize("output", ["quad", "polygon"])
def test_empty_map_has_no_text(output):
    found = detect(
        np.zeros((32, 48), np.float32), map_stride=1, shrink_ratio=0.4, config=PostprocessConfig(output=output)
    )
    assert found.polygons == []
    assert found.scores.shape == (0,)


@pytest.mark.parametrize("output", ["quad", "polygon"])
def test_full_map_is_one_box(output):
    (polygon,) = found_as_drawn(np.ones((32, 48), np.float32), 4, PostprocessConfig(output=output)).polygons
    np.testing.assert_allclose(polygon, box(0, 0, 192, 128), atol=1e-3)


def test_regions_at_the_border_keep_their_size():
    prob_map = np.zeros((50, 50), np.float32)
    prob_map[:4, 10:30] = 0.9
    prob_map[44:, 45:] = 0.8
    top, corner = found_as_drawn(prob_map).polygons
    np.testing.assert_allclose(top, box(10, 0, 30, 4), atol=0.3)
    np.testing.assert_allclose(corner, box(45, 44, 50, 50), atol=0.5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -0.5, 1.5])
def test_values_that_are_not_probabilities_are_refused(bad):
    prob_map = np.zeros((8, 16), np.float32)
    prob_map[3, 11] = bad
    with pytest.raises(ValueError, match=rf"prob_map\[3, 11\] is {bad}; probabilities in \[0, 1\]"):
        detect(prob_map, map_stride=1, shrink_ratio=0.4, config=CONFIG)


def test_a_batch_is_refused():
    with pytest.raises(ValueError, match=r"prob_map has shape \(1, 8, 8\)"):
        detect(np.zeros((1, 8, 8), np.float32), map_stride=1, shrink_ratio=0.4, config=CONFIG)


def test_map_may_be_half_precision_or_a_view_and_is_not_changed():
    prob_map = np.zeros((40, 80), np.float32)
    prob_map[10:20, 10:60] = 0.875
    before = prob_map.copy()
    whole = found_as_drawn(prob_map)
    every_other = np.zeros((80, 160), np.float32)[::2, ::2]
    every_other[:] = prob_map
    for same in (prob_map.astype(np.float16), np.asfortranarray(prob_map), every_other):
        np.testing.assert_array_equal(found_as_drawn(same).polygons, whole.polygons)
    np.testing.assert_array_equal(prob_map, before)


def test_a_letterboxed_image_is_seen_up_to_its_last_pixel_and_without_its_padding():
    # 100 x 90 becomes 64 x 58 in the input, which is 16 x 14.5 map pixels.
    sample = letterbox([0], [(100, 90)], 64)[0]
    levels = np.zeros((16, 16), np.uint8)
    levels[4:8, 5:15] = 255
    levels[:, 15] = 255  # in the padding
    config = PostprocessConfig(unclip_ratio=1e-9)
    (polygon,) = detect_letterboxed(levels, sample, (100, 90), config, TargetConfig(map_stride=4)).polygons
    np.testing.assert_allclose(polygon, box(20 * 90 / 58, 16 * 100 / 64, 90, 32 * 100 / 64), atol=1e-3)


def test_moved_detections_follow_the_matrix_and_stop_at_the_border():
    detections = Detections.from_polygons([box(10, 20, 50, 40), box(-8, 90, 120, 110)], [0.9, 0.8])
    matrix = np.array([[2.0, 0, 0], [0, 3.0, 0], [0, 0, 1]])
    moved = moved_detections(detections, matrix, (300, 200))
    np.testing.assert_allclose(moved.polygons, [box(20, 60, 100, 120), box(0, 270, 200, 300)])
    np.testing.assert_array_equal(moved.scores, detections.scores)
    np.testing.assert_array_equal(detections.polygons[1], box(-8, 90, 120, 110))


def test_detections_in_the_padding_are_dropped():
    detections = Detections.from_polygons(
        [box(110, 10, 150, 30), box(10, 10, 50, 30), box(10, 70, 50, 90)], [0.9, 0.8, 0.7]
    )
    moved = moved_detections(detections, np.eye(3), (60, 100))
    np.testing.assert_array_equal(moved.polygons, [box(10, 10, 50, 30)])
    np.testing.assert_array_equal(moved.scores, np.array([0.8], np.float32))


def test_no_detections_move_to_no_detections():
    moved = moved_detections(Detections.from_polygons([], []), np.eye(3), (60, 100))
    assert moved.polygons == []
    assert moved.scores.shape == (0,)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_detections_land_on_the_words_of_files_with_exif_rotation(odd_jpegs, orientation):
    files = json.loads((odd_jpegs / "manifest.json").read_text())["files"]
    (entry,) = [entry for entry in files if entry["file"] == f"exif_{orientation}.jpg"]
    (width, height), (upright_width, upright_height) = entry["stored_size_wh"], entry["size_after_exif_wh"]
    words_stored = [np.array(word, np.float32) for word in entry["words_in_stored_pixels"]]
    upright = original_from_stored(orientation, (height, width))
    input_from_original = scaling(2, 2)
    words_input = [transform_points(input_from_original @ upright, word) for word in words_stored]

    prob_map = shrunk_map(words_input, (2 * upright_height, 2 * upright_width), 0.6)
    found_input = detect(prob_map, map_stride=1, shrink_ratio=0.6, config=CONFIG)
    found_original = moved_detections(found_input, np.linalg.inv(input_from_original), (upright_height, upright_width))
    found_stored = moved_detections(found_original, stored_from_original(orientation, (height, width)), (height, width))

    assert len(found_stored.polygons) == len(words_stored)
    assert best_ious(words_stored, found_stored.polygons).min() > 0.88
    for polygon_stored, polygon_original in zip(found_stored.polygons, found_original.polygons, strict=True):
        assert not shapely.is_ccw(shapely.LinearRing(polygon_stored * (1, -1)))
        upper_edge = np.sort(transform_points(upright, polygon_stored[:2]), axis=0)
        np.testing.assert_allclose(upper_edge, np.sort(polygon_original[:2], axis=0), atol=1e-3)


def assert_equal_to_the_reference(levels, config, *, map_stride=1, shrink_ratio=0.6, matrix=None, size=(500, 600)):
    """Compares polygons and scores bit for bit, in the input frame and moved to another one. Returns the number of polygons."""
    found = detect_levels(levels, map_stride=map_stride, shrink_ratio=shrink_ratio, config=config)
    expected = reference.detect_levels(levels, map_stride=map_stride, shrink_ratio=shrink_ratio, config=config)
    moved = np.array([[-0.7, 0.2, 400], [0.1, 0.8, -5], [0, 0, 1]]) if matrix is None else matrix
    for one, other in (
        (found, expected),
        (moved_detections(found, moved, size), reference.moved_detections(expected, moved, size)),
    ):
        assert len(one) == len(other.polygons)
        np.testing.assert_array_equal(one.scores, other.scores)
        assert one.scores.dtype == other.scores.dtype
        for polygon, same in zip(one.polygons, other.polygons, strict=True):
            np.testing.assert_array_equal(polygon, same)
            assert polygon.dtype == same.dtype
    return len(found)


def uneven_levels(polygons, size, rng):
    """Returns the map of a network that is good but not perfect: soft and uneven borders, noise."""
    sharp = make_targets(PolygonBatch.from_lists([polygons]), size, TargetConfig(shrink_ratio=0.6, min_side=4))
    waves = cv2.GaussianBlur(rng.standard_normal(size, np.float32), (0, 0), 2.0)
    blurred = cv2.GaussianBlur(sharp.shrink_map[0].numpy(), (0, 0), 1.0)
    return to_levels(torch.from_numpy(12 * (blurred - 0.4) + 6 * waves).sigmoid(), 0.3).numpy()


@pytest.mark.parametrize("output", ["quad", "polygon"])
def test_real_pages_give_the_bits_of_the_reference(sroie, icdar15, output):
    rng = np.random.default_rng(0)
    pages = [*scaled_annotations(sroie, 60, 640), *scaled_annotations(icdar15, 30, 640)]
    number = sum(
        assert_equal_to_the_reference(uneven_levels(polygons, size, rng), PostprocessConfig(output=output))
        for polygons, size in pages
        if polygons
    )
    assert number > 2000


@pytest.mark.parametrize("output", ["quad", "polygon"])
@pytest.mark.parametrize("unclip_ratio", ["exact", 1.5])
def test_random_maps_give_the_bits_of_the_reference(output, unclip_ratio):
    rng = np.random.default_rng(1)
    number = 0
    for index in range(60):
        shape = rng.integers(1, 200, 2)
        smooth = cv2.GaussianBlur(rng.random(shape), (0, 0), rng.uniform(0.3, 4))
        spread = (smooth - smooth.mean()) / (smooth.std() + 1e-9) - rng.random()
        config = PostprocessConfig(
            output=output,
            unclip_ratio=unclip_ratio,
            unclip_offset=(0.0, -3.0, 1.5)[index % 3],
            min_side=4 * (index % 2),
            box_thresh=(0.0, 0.3, 0.6)[index % 3],
            max_candidates=(5, 1000)[index % 2],
        )
        levels = np.clip(128 + 60 * spread, 0, 255).astype(np.uint8)
        stride, ratio = (1, 2, 4)[index % 3], rng.uniform(0.2, 1)
        number += assert_equal_to_the_reference(levels, config, map_stride=stride, shrink_ratio=ratio)
    assert number > 500


def test_the_map_of_an_untrained_network_gives_the_bits_of_the_reference():
    """Tens of thousands of regions, many with equal scores: their order depends on the last bit of a sum."""
    rng = np.random.default_rng(2)
    levels = rng.integers(0, 128, (600, 600), np.uint8) | (rng.random((600, 600)) < 0.08).astype(np.uint8) << 7
    everything = PostprocessConfig(min_side=0, box_thresh=0, max_candidates=100_000)
    assert assert_equal_to_the_reference(levels, everything) > 12_000


@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (64, 96)])
@pytest.mark.parametrize("level", [0, 127, 128, 255])
def test_uniform_maps_give_the_bits_of_the_reference(shape, level):
    for output in ("quad", "polygon"):
        config = PostprocessConfig(output=output, min_side=0)
        assert_equal_to_the_reference(np.full(shape, level, np.uint8), config)


def test_detections_count_the_regions_that_max_candidates_cuts():
    levels = np.zeros((40, 200), np.uint8)
    for left, level in enumerate([255, 250, 245, 240, 130]):  # the last one is below box_thresh
        levels[10:20, 40 * left + 5 : 40 * left + 30] = level
    for limit, num_cut in ((5, 0), (4, 0), (3, 1), (1, 3)):
        config = PostprocessConfig(max_candidates=limit)
        found = detect_levels(levels, map_stride=1, shrink_ratio=0.6, config=config)
        assert (len(found), found.num_cut) == (4 - num_cut, num_cut)
        assert moved_detections(found, np.eye(3), (40, 200)).num_cut == num_cut
        assert found.parted()[0].num_cut == num_cut


def test_a_warning_names_the_images_with_more_regions_than_max_candidates(caplog):
    warn_of_cut_regions({"a.jpg": 0, "b.jpg": 532, "c.jpg": 1, "d.jpg": 2, "e.jpg": 3}, 1000)
    (message,) = caplog.messages
    assert message.startswith("b.jpg (1,532 regions), c.jpg (1,001 regions), d.jpg (1,002 regions) and 1 more images: ")
    assert "postprocess.max_candidates=1000" in message


def test_no_warning_where_all_regions_become_polygons(caplog):
    warn_of_cut_regions({"a.jpg": 0}, 1000)
    assert not caplog.messages


@pytest.mark.parametrize("output", ["quad", "polygon"])
def test_detections_below_the_threshold_follow_and_change_none_of_the_others(output):
    config = PostprocessConfig(output=output, box_thresh=0.6, min_side=2)
    levels = levels_of(noisy_map(), config)
    usual = detect_levels(levels, map_stride=1, shrink_ratio=0.4, config=config)
    both = detect_levels(levels, map_stride=1, shrink_ratio=0.4, config=config, with_below=True)
    shift = np.array([[1.0, 0, -40], [0, 1, -30], [0, 0, 1]])
    for kept_usual, found in ((usual, both), tuple(moved_detections(one, shift, (160, 200)) for one in (usual, both))):
        kept, below = found.parted()
        assert (len(kept), kept.num_cut) == (len(kept_usual), kept_usual.num_cut)
        np.testing.assert_array_equal(kept.vertices, kept_usual.vertices)
        np.testing.assert_array_equal(kept.vertex_starts, kept_usual.vertex_starts)
        np.testing.assert_array_equal(kept.scores, kept_usual.scores)
        assert len(below) == found.num_below > 0
        assert below.scores.max() < 0.6
        assert [len(polygon) for polygon in below.polygons] == np.diff(below.vertex_starts).tolist()


def test_detections_below_the_threshold_take_the_places_that_are_left():
    config = PostprocessConfig(box_thresh=0.6, max_candidates=5, min_side=0)
    levels = levels_of(noisy_map(), config)
    found = detect_levels(levels, map_stride=1, shrink_ratio=0.4, config=config, with_below=True)
    usual = detect_levels(levels, map_stride=1, shrink_ratio=0.4, config=config)
    assert len(found) <= 5
    assert found.num_cut == usual.num_cut
    assert len(found) - found.num_below == len(usual)
