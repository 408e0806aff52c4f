"""A forward pass in which dark pixels are text stands for a trained network, so the text of a page is known exactly."""

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw

from dali_pipelines.rendering import resize_whole
from ocr.datasets.plan import letterbox
from ocr.pages.detector import PageDetector
from ocr.pages.views import turned
from ocr.postprocess.boxes import detect_letterboxed
from ocr.postprocess.config import PostprocessConfig
from ocr.targets.config import TargetConfig

SIDE = 320
POSTPROCESS = PostprocessConfig(unclip_ratio=0.01, min_side=2, box_thresh=0.5)
TARGETS = TargetConfig(map_stride=1)


class DarkIsText:
    """Finds dark pixels, but like a trained network neither text under `lowest` pixels high nor lines that run up or down."""

    def __init__(self, lowest: int = 5, side: int = SIDE) -> None:
        self.lowest, self.side = lowest, side
        self.num_images = 0

    def __call__(self, images):
        self.num_images += len(images)
        levels = np.zeros((len(images), self.side, self.side), np.uint8)
        for slot, image in zip(levels, images, strict=True):
            dark = (image[..., 1] < 100).astype(np.uint8)
            slot[: dark.shape[0], : dark.shape[1]] = 255 * self._lying_lines(dark)
        return levels

    def _lying_lines(self, dark):
        high_enough = cv2.morphologyEx(dark, cv2.MORPH_OPEN, np.ones((self.lowest, 1), np.uint8))
        return cv2.morphologyEx(high_enough, cv2.MORPH_OPEN, np.ones((1, 24), np.uint8))


def page_of(boxes, size):
    picture = Image.new("RGB", size[::-1], (230, 230, 230))
    for left, top, width, height in boxes:
        ImageDraw.Draw(picture).rectangle((left, top, left + width - 1, top + height - 1), fill=(20, 20, 20))
    return np.asarray(picture).copy()


def lines_of(height, size, length=200):
    tops = range(20, size[0] - 3 * height, 4 * height)
    return [(left, top, length, height) for top in tops for left in range(30, size[1] - length, length + 60)]


def detected(page, forward, tile="none", rotations="none"):
    pages = PageDetector(
        tile, rotations, image_size=SIDE, batch_size=3, postprocess=POSTPROCESS, targets=TARGETS, forward=forward
    )
    size = page.shape[:2]
    plan = letterbox([0], [size], SIDE)[0]
    levels = forward([resize_whole(page, plan.region_xyxy, plan.resized_size)])[0]
    whole = detect_letterboxed(levels, plan, size, POSTPROCESS, TARGETS)
    return whole, pages.detect(page, whole) if pages.looks_closer(size) else None


def assert_boxes(detections, boxes, tolerance):
    """Asserts that each box (left, top, width, height) was found exactly once, and nothing else."""
    found = [(*polygon.min(axis=0), *np.ptp(polygon, axis=0)) for polygon in detections.polygons]
    assert len(found) == len(boxes)
    distances = abs(np.array(found)[:, None] - np.array(boxes)[None]).max(axis=2)
    np.testing.assert_array_equal(np.sort(distances.argmin(axis=1)), np.arange(len(boxes)))
    assert distances.min(axis=1).max() <= tolerance


@pytest.mark.parametrize("tile", ["auto", 320, 400, 777])
def test_each_line_of_a_large_page_is_found_once_and_whole(tile):
    size = (1500, 1110)
    boxes = lines_of(14, size, length=460)  # longer than a tile: each line crosses a border at least
    page = page_of(boxes, size)
    whole, text = detected(page, DarkIsText(), tile)
    assert len(whole) == 0
    assert text.rotation == 0
    assert_boxes(text.detections_original, boxes, tolerance=4)


def test_auto_leaves_a_page_whole_whose_text_is_high_enough():
    page = page_of(lines_of(60, (1500, 1100), length=400), (1500, 1100))
    forward = DarkIsText()
    whole, text = detected(page, forward, "auto")
    assert len(whole) > 4
    assert text.detections_original is whole
    assert forward.num_images == 2  # the page and its probe


def test_auto_does_not_even_probe_a_page_with_hardly_more_pixels_than_the_input():
    assert detected(page_of([], (390, 300)), DarkIsText(), "auto")[1] is None
    assert detected(page_of([], (390, 300)), DarkIsText(), 391)[1] is None


def test_auto_leaves_an_empty_page_whole():
    forward = DarkIsText()
    _, text = detected(page_of([], (3000, 2000)), forward, "auto")
    assert len(text.detections_original) == 0
    assert forward.num_images == 2


def test_a_headline_is_kept_beside_small_text():
    headline = (60, 40, 900, 240)
    boxes = [headline, *((left, top + 400, *rest) for left, top, *rest in lines_of(14, (1000, 1100)))]
    page = page_of(boxes, (1500, 1110))
    _, text = detected(page, DarkIsText(), "auto")
    assert_boxes(text.detections_original, boxes, tolerance=10)


@pytest.mark.parametrize("rotation", [90, 270])
@pytest.mark.parametrize("rotations", ["auto", (0, 90), (0, 90, 180, 270), (90,)])
def test_a_page_on_its_side_is_turned_and_its_polygons_turned_back(rotation, rotations):
    size = (300, 260)
    boxes = lines_of(14, size, length=200)
    upright = page_of(boxes, size)
    page = turned(upright, rotation)
    whole, text = detected(page, DarkIsText(), rotations=rotations)
    assert len(whole) == 0
    assert text.rotation == 90  # not 270 where the text is upside down at 90: a detector cannot tell
    if rotation == 90:
        expected = [(size[0] - top - height, left, height, width) for left, top, width, height in boxes]
    else:
        expected = [(top, size[1] - left - width, height, width) for left, top, width, height in boxes]
    assert_boxes(text.detections_original, expected, tolerance=2)


def test_the_first_edge_of_turned_text_runs_along_its_line():
    boxes = lines_of(14, (300, 260))
    _, text = detected(turned(page_of(boxes, (300, 260)), 90), DarkIsText(), rotations="auto")
    assert len(text.detections_original.polygons) == len(boxes)
    for polygon in text.detections_original.polygons:
        assert abs(polygon[1] - polygon[0]).max() > 150


def test_upright_pages_stay_as_they_are():
    page = page_of(lines_of(14, (300, 260)), (300, 260))
    for rotations in ("auto", (0, 180), (0, 90, 180, 270)):
        whole, text = detected(page, DarkIsText(), rotations=rotations)
        assert text.rotation == 0
        assert text.detections_original is whole
    assert detected(page, DarkIsText(), rotations=(180, 0))[1].rotation == 180  # the first one, with nothing to choose


def test_a_large_page_on_its_side_is_turned_and_seen_in_tiles():
    size = (1110, 1500)
    boxes = lines_of(14, size, length=460)
    page = turned(page_of(boxes, size), 90)
    whole, text = detected(page, DarkIsText(), "auto", "auto")
    assert len(whole) == 0
    assert text.rotation == 90
    expected = [(size[0] - top - height, left, height, width) for left, top, width, height in boxes]
    assert_boxes(text.detections_original, expected, tolerance=4)


def test_more_regions_than_max_candidates_are_kept_where_tiles_hold_them():
    size = (2600, 2000)
    boxes = lines_of(14, size, length=60)
    limited = POSTPROCESS.model_copy(update={"max_candidates": 60})
    forward = DarkIsText()
    pages = PageDetector(
        600, "none", image_size=SIDE, batch_size=4, postprocess=limited, targets=TARGETS, forward=forward
    )
    page = page_of(boxes, size)
    found = pages.detect(page, detected(page, forward)[0]).detections_original
    assert len(boxes) > 60
    assert (len(found), found.num_cut) == (len(boxes), 0)
