import numpy as np

from ocr.pages.merge import with_large_texts
from ocr.postprocess.boxes import Detections


def box(left, top, width, height):
    return np.array([[left, top], [left + width, top], [left + width, top + height], [left, top + height]], np.float32)


def found(*boxes, scores=None):
    return Detections.from_polygons(list(boxes), scores or [0.7] * len(boxes))


HEADLINE = box(0, 0, 900, 120)


def lefts(detections):
    return [float(polygon[0, 0]) for polygon in detections.polygons]


def test_a_headline_replaces_its_parts():
    parts = [box(5, 10, 200, 100), box(400, 10, 300, 100)]
    line = box(50, 200, 300, 16)
    merged = with_large_texts(found(*parts, line), found(HEADLINE, scores=[0.9]), 64)
    assert lefts(merged) == [0, 50]
    np.testing.assert_allclose(merged.scores, [0.9, 0.7])


def test_a_headline_that_the_tiles_miss_is_added():
    assert len(with_large_texts(found(), found(HEADLINE), 64)) == 1


def test_a_headline_that_the_tiles_have_stays_once():
    tiled = found(box(2, 2, 896, 116))
    assert with_large_texts(tiled, found(HEADLINE), 64) is tiled


def test_lines_that_the_whole_page_joins_to_a_blob_stay():
    lines = found(box(10, 5, 800, 16), box(10, 50, 800, 16), box(10, 90, 800, 16))
    assert with_large_texts(lines, found(HEADLINE), 64) is lines


def test_small_text_of_the_whole_page_is_ignored():
    tiled = found(box(0, 0, 10, 5))
    assert with_large_texts(tiled, found(box(100, 100, 300, 60)), 64) is tiled


def test_two_large_texts_in_one_place_are_added_once():
    assert len(with_large_texts(found(), found(HEADLINE, box(10, 5, 880, 110)), 64)) == 1


def test_cut_regions_are_counted_on():
    tiled = Detections(np.zeros((0, 2), np.float32), np.zeros(1, np.int64), np.zeros(0, np.float32), num_cut=3)
    assert with_large_texts(tiled, found(HEADLINE), 64).num_cut == 3


def test_the_outlines_of_a_page_are_taken_apart_once(monkeypatch):
    """Taking them apart for each pair of texts made a page of a thousand texts take seconds."""
    taken_apart = []
    polygons = Detections.polygons.fget
    monkeypatch.setattr(Detections, "polygons", property(lambda self: taken_apart.append(self) or polygons(self)))
    headlines = found(*(box(0, 200 * number, 900, 120) for number in range(20)))
    assert len(with_large_texts(found(box(5, 10, 200, 100)), headlines, 64)) == 20
    assert len(taken_apart) == 4  # once for the heights and once for the hulls, of either side
