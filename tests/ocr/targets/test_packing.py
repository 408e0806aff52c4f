"""The array that the Triton kernel reads."""

import numpy as np
import pytest

from ocr.polygons import PolygonBatch
from ocr.targets.config import TargetConfig
from ocr.targets.outline import measure_outlines
from ocr.targets.packing import pack_polygons

SIZE = (96, 144)
BOX = np.array([[10, 10], [40, 10], [40, 25], [10, 25]])


def packed(polygons_input: PolygonBatch, config: TargetConfig) -> np.ndarray:
    outlines = measure_outlines(polygons_input, SIZE, config)
    return pack_polygons(polygons_input, outlines, SIZE[0] // config.map_stride)


def test_tiles_go_through_the_polygons_near_them_only() -> None:
    # D = 0.84 * 450 / 90 = 4.2: the polygons reach from row 6 to 29 and from row 66 to 89; the third is outside.
    polygons_input = PolygonBatch.from_lists([[], [BOX + np.array([0, 60]), BOX, BOX + 500]])
    words = packed(polygons_input, TargetConfig())
    ranges, boxes, distances, vertices = np.split(words, np.cumsum([2 * 2 * 6, 3 * 7, 3]))
    first, last = ranges.reshape(2, 6, 2).transpose(2, 0, 1)
    assert (last - first).tolist() == [[0] * 6, [1, 1, 0, 0, 1, 1]]
    assert boxes.reshape(3, 7)[:2].tolist() == [[6, 29, 6, 44, 4, 8, 1], [66, 89, 6, 44, 0, 4, 1]]
    assert distances.view(np.float32)[:2].tolist() == pytest.approx([4.2, 4.2])
    assert np.array_equal(vertices.view(np.float32).reshape(-1, 2), polygons_input.vertices)


def test_last_band_may_be_smaller() -> None:
    # 24 map rows are one and a half bands; the polygon reaches from map row 1 to 7.
    words = packed(PolygonBatch.from_lists([[BOX]]), TargetConfig(map_stride=4))
    assert words[:4].tolist() == [0, 1, 1, 1]
    assert words[4:11].tolist() == [1, 7, 1, 11, 0, 4, 1]


def test_boxes_hold_the_weight_of_text_and_0_for_ignored_regions() -> None:
    polygons_input = PolygonBatch.from_lists([[BOX, BOX * 3, BOX + 30]], [[False, False, True]])
    words = packed(polygons_input, TargetConfig(max_text_weight=9))
    assert sorted(words[2 * 6 :][: 3 * 7].reshape(3, 7)[:, 6].tolist()) == [0, 1, 5]


@pytest.mark.parametrize("num_images", [0, 3])
def test_images_without_polygons_have_empty_ranges(num_images: int) -> None:
    words = packed(PolygonBatch.from_lists([[]] * num_images), TargetConfig())
    assert words.tolist() == [0] * (2 * 6 * num_images)
