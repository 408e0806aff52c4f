import numpy as np
import pytest

from ocr.postprocess.config import PostprocessConfig
from ocr.postprocess.unclip import distance_to_area, grow_polygons, unclip_distance, unshrink_distance


def grow_polygon(polygon, distance):
    """Returns the vertices of one grown polygon."""
    vertices, starts = grow_polygons(polygon, np.array([0, len(polygon)]), np.array([distance]))
    assert starts.tolist() == [0, len(vertices)]
    return vertices


def test_unshrink_distance_on_a_line_worked_by_hand():
    # 100 x 20 with r = 0.4: D = 2000 * 0.84 / 240 = 7, which leaves 86 x 6.
    assert unshrink_distance(86 * 6, 2 * (86 + 6), 0.4) == pytest.approx(7)


@pytest.mark.parametrize("shrink_ratio", [0.2, 0.4, 0.6, 0.7, 0.9])
@pytest.mark.parametrize("sides", [(10, 10), (300, 12), (8, 90)])
def test_unshrink_distance_undoes_the_shrinking_of_any_rectangle(sides, shrink_ratio):
    width, height = sides
    distance = width * height * (1 - shrink_ratio**2) / (2 * (width + height))
    left = width - 2 * distance, height - 2 * distance
    assert unshrink_distance(left[0] * left[1], 2 * sum(left), shrink_ratio) == pytest.approx(distance)


def test_regions_that_were_not_shrunk_are_not_unclipped():
    assert unshrink_distance(50.0, 30.0, 1.0) == 0


def distance_of_the_line(config, map_stride=1):
    """Returns the unclip distance of a line of 100 x 20 map pixels that was shrunk with r = 0.4, by 7, to 86 x 6."""
    return unclip_distance(86 * 6, 184, map_stride=map_stride, shrink_ratio=0.4, config=config)


def test_unclip_ratio_gives_the_classic_distance():
    classic = PostprocessConfig(unclip_ratio=1.5)
    assert distance_of_the_line(classic) == pytest.approx(86 * 6 * 1.5 / 184)
    assert distance_of_the_line(PostprocessConfig()) == pytest.approx(7)


@pytest.mark.parametrize("unclip_ratio", ["exact", 1.5])
@pytest.mark.parametrize(("map_stride", "unclip_offset", "added"), [(1, 3, 3), (2, 3, 1.5), (4, -2, -0.5)])
def test_unclip_offset_in_input_pixels_is_added(unclip_ratio, map_stride, unclip_offset, added):
    plain, moved = (
        distance_of_the_line(PostprocessConfig(unclip_ratio=unclip_ratio, unclip_offset=offset), map_stride)
        for offset in (0, unclip_offset)
    )
    assert moved == pytest.approx(plain + added)


def test_distance_to_area_of_a_rectangle():
    assert distance_to_area(10 * 4, 28, 12 * 6) == pytest.approx(1)
    assert distance_to_area(12 * 6, 36, 10 * 4) == pytest.approx(-1)
    assert distance_to_area(0, 0, 1) == pytest.approx(0.5)  # a point grown to a pixel


def test_grown_polygon_keeps_right_angles():
    corner = np.array([[0, 0], [40, 0], [40, 10], [10, 10], [10, 30], [0, 30]])
    grown = grow_polygon(corner, 2.5)
    expected = {(-2.5, -2.5), (42.5, -2.5), (42.5, 12.5), (12.5, 12.5), (12.5, 32.5), (-2.5, 32.5)}
    assert {tuple(point) for point in grown.tolist()} == expected


def test_polygon_without_area_does_not_grow():
    assert len(grow_polygon(np.array([[5, 5], [5, 5], [5, 5], [5, 5]]), 0.0)) == 0


def test_polygon_that_would_touch_itself_does_not_grow():
    """A bent region whose ends meet at (11, 11). Some evaluators discard such outlines."""
    region = np.array(
        [[10, 0], [10, 10], [-10, 10], [-10, 30], [12, 30], [12, 12], [22, 12], [22, 40], [-20, 40], [-20, 0]]
    )
    assert len(grow_polygon(region, 1.0)) == 0
    assert len(grow_polygon(region, 0.5)) == 10


def test_each_polygon_grows_by_its_own_distance():
    square = np.array([[0, 0], [10, 0], [10, 10], [0, 10]])
    vertices, starts = grow_polygons(
        np.concatenate([square, square, square]), np.array([0, 4, 8, 12]), np.array([1, np.nan, 2.5])
    )
    assert starts.tolist() == [0, 4, 4, 8]
    assert (vertices[:4].min(), vertices[:4].max(), vertices[4:].min(), vertices[4:].max()) == (-1, 11, -2.5, 12.5)


def test_no_polygons_grow_into_none():
    vertices, starts = grow_polygons(np.zeros((0, 2)), np.array([0]), np.zeros(0))
    assert (vertices.shape, starts.tolist()) == ((0, 2), [0])
