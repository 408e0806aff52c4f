import numpy as np
import shapely

from ocr.metrics.overlaps import Shapes, exact_overlaps, overlaps
from ocr.metrics.regions import flat_polygons

SQUARE = np.array([[0, 0], [4, 0], [4, 4], [0, 4]], np.float64)
ARROW = np.array([[0, 0], [4, 0], [1, 1], [0, 4]], np.float64)
BOW_TIE = SQUARE[[0, 2, 1, 3]]


def shapes_of(*polygons: np.ndarray) -> Shapes:
    return Shapes.from_flat(flat_polygons(polygons, "target"))


def test_only_convex_polygons_with_an_area_are_convex():
    line = np.array([[0, 0], [4, 0], [8, 0]])
    shapes = shapes_of(SQUARE, SQUARE[::-1], ARROW, BOW_TIE, line)
    assert shapes.num_polygons == 5
    assert shapes.is_convex.tolist() == [True, True, False, False, False]
    assert shapes.areas[:2].tolist() == [16, 16]
    assert shapes.boxes[0].tolist() == [0, 0, 4, 4]


def test_common_areas_worked_by_hand():
    first = shapes_of(SQUARE, SQUARE + 100)
    second = shapes_of(SQUARE[::-1] + 1, SQUARE + np.array([4, 0]), SQUARE * 0.5 + 99, SQUARE + 50)
    found = overlaps(first, second)
    # Squares that only touch have no common area, and are no pair.
    assert (found.first.tolist(), found.second.tolist()) == ([0, 1], [0, 2])
    assert found.common.tolist() == [9, 1]
    assert found.second_area.tolist() == [16, 4]


def test_polygons_that_are_not_convex_are_left_to_shapely():
    first, second = shapes_of(SQUARE, SQUARE), shapes_of(ARROW, BOW_TIE)
    found = overlaps(first, second)
    assert np.isnan(found.common).all()
    found = exact_overlaps(found, first, second, np.isnan(found.common))
    assert found.common.tolist() == [4, 8, 4, 8]
    assert found.second_area.tolist() == [4, 8, 4, 8]


def test_random_convex_polygons_have_the_common_area_of_shapely():
    rng = np.random.default_rng(0)
    hulls = [
        np.array(shapely.MultiPoint(rng.uniform(0, 30, (8, 2))).convex_hull.exterior.coords)[:-1] for _ in range(40)
    ]
    found = overlaps(shapes_of(*hulls[:20]), shapes_of(*hulls[20:]))
    expected = [
        shapely.Polygon(hulls[first]).intersection(shapely.Polygon(hulls[20 + second])).area
        for first, second in zip(found.first, found.second, strict=True)
    ]
    assert len(expected) > 300
    np.testing.assert_allclose(found.common, expected, atol=1e-9)


def test_no_polygons_have_no_overlaps():
    assert len(overlaps(shapes_of(), shapes_of(SQUARE)).common) == 0
    assert len(overlaps(shapes_of(SQUARE), shapes_of()).common) == 0
