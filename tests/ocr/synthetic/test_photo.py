from dataclasses import replace

import numpy as np
import pytest
import shapely
from shapely import LineString, Point, Polygon

from ocr.synthetic import scene
from ocr.synthetic.config import SyntheticConfig
from ocr.synthetic.photo import outline, photograph
from ocr.synthetic.text import BOX_MARGIN, Arc, Style, draw_run


def _rng(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(seed))


@pytest.mark.parametrize("seed", range(4))
def test_polygons_hold_the_ink_and_little_else(seed: int) -> None:
    config = SyntheticConfig(illegible_share=0, fine_print_share=0, blank_share=0, bent_share=0.5, max_side=720)
    composed = scene.compose(_rng(seed), config)
    photo = photograph(_rng(100 + seed), composed)
    bare = replace(composed, pages=[replace(page, prints=[]) for page in composed.pages])
    without = photograph(_rng(100 + seed), bare)
    difference = np.abs(photo.pixels.astype(np.int16) - without.pixels).max(-1)
    rows, columns = np.nonzero(difference > 12)
    darkness, ink = difference[rows, columns], shapely.points(columns + 0.5, rows + 0.5)
    ink_inside = 0
    for word in photo.words:
        is_inside = shapely.covers(Polygon(word.polygon), ink)
        ink_inside += darkness[is_inside].sum()
        inside = ink[is_inside & (darkness > 0.3 * darkness[is_inside].max())]
        half = len(word.polygon) // 2
        ends = word.polygon[[half - 1, half]], word.polygon[[-1, 0]]
        for side in (word.polygon[:half], ends[0], word.polygon[half:], ends[1]):
            # Tight: half an ink pixel, the margin, and what the lens washes out.
            assert shapely.distance(LineString(side), inside).min() < BOX_MARGIN + 2, (word, side)
    assert ink_inside / darkness.sum() > 0.995


def test_outline_of_a_straight_run_has_its_four_corners_clockwise() -> None:
    run = draw_run("TOTAL", Style("Roboto", 20))
    left, top, right, bottom = run.box
    expected = [[left - 1, top - 1], [right + 1, top - 1], [right + 1, bottom + 1], [left - 1, bottom + 1]]
    np.testing.assert_allclose(outline(run.edges), expected)


def test_outline_of_a_curved_run_has_more_points_and_stays_near_its_edges() -> None:
    run = draw_run("Smile please", Style("Roboto", 20))
    edges = Arc(200, 200, 150).bend(run.edges)
    polygon = outline(edges)
    assert 6 < len(polygon) <= 14
    ring = Polygon(polygon).exterior
    assert max(ring.distance(Point(point)) for point in edges.reshape(-1, 2)) <= 0.04 * (run.height + 2)
