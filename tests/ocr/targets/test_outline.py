import numpy as np
import pytest

from ocr.polygons import PolygonBatch
from ocr.targets.agreement import random_polygons
from ocr.targets.config import TargetConfig
from ocr.targets.outline import DONT_CARE, NOTHING, TEXT, measure_outlines

SIZE = (100, 200)


def rectangle(x: float, y: float, width: float, height: float) -> np.ndarray:
    return np.array([[x, y], [x + width, y], [x + width, y + height], [x, y + height]])


def turned(polygon: np.ndarray, degrees: float) -> np.ndarray:
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return polygon @ np.array([[cos, sin], [-sin, cos]])


def test_distance_is_proportional_to_area_over_perimeter() -> None:
    outlines = measure_outlines(PolygonBatch.from_lists([[rectangle(10, 10, 20, 10)]]), SIZE, TargetConfig())
    assert outlines.distance == pytest.approx([0.84 * 200 / 60])
    assert outlines.role.tolist() == [TEXT]


def test_distance_ignores_vertex_direction_and_the_border_of_the_image() -> None:
    polygons = [rectangle(10, 10, 20, 10), rectangle(10, 10, 20, 10)[::-1], rectangle(-15, 10, 20, 10)]
    outlines = measure_outlines(PolygonBatch.from_lists([polygons]), SIZE, TargetConfig())
    assert outlines.distance == pytest.approx([2.8, 2.8, 2.8])


def test_window_is_the_widened_box_clipped_to_the_map() -> None:
    # D = 2.8: pixel centres from 7.2 to 32.8 and 22.8; the second is half outside, the third wholly.
    polygons = [rectangle(10, 10, 20, 10), rectangle(190, -5, 20, 10), rectangle(300, 10, 20, 10)]
    windows = measure_outlines(PolygonBatch.from_lists([polygons]), SIZE, TargetConfig()).windows
    assert windows[:2].tolist() == [[7, 23, 7, 33], [0, 8, 187, 200]]
    assert windows[2, 2] == windows[2, 3]


def test_window_is_in_map_pixels() -> None:
    batch = PolygonBatch.from_lists([[rectangle(40, 40, 80, 40)]])
    assert measure_outlines(batch, SIZE, TargetConfig(map_stride=4)).windows.tolist() == [[7, 23, 7, 33]]


@pytest.mark.parametrize("degrees", [0, 17, 45, 90])
def test_short_side_of_a_rectangle_does_not_depend_on_its_angle(degrees: float) -> None:
    polygons = [turned(rectangle(0, 0, 50, side), degrees) + 60 for side in (7.9, 8.1)]
    outlines = measure_outlines(PolygonBatch.from_lists([polygons]), SIZE, TargetConfig(min_side=8))
    assert outlines.role.tolist() == [DONT_CARE, TEXT]
    assert outlines.distance[0] == 0


def test_text_exactly_as_high_as_min_side_is_learned() -> None:
    batch = PolygonBatch.from_lists([[rectangle(10, 10, 50, 8)]])
    assert measure_outlines(batch, SIZE, TargetConfig(min_side=8)).role.tolist() == [TEXT]


def test_short_side_of_a_round_polygon_is_that_of_a_square() -> None:
    angle = np.linspace(0, 2 * np.pi, 30, endpoint=False)
    circle = np.column_stack([np.cos(angle), np.sin(angle)])
    outlines = measure_outlines(PolygonBatch.from_lists([[circle * 5 + 50, circle * 5.2 + 50]]), SIZE, TargetConfig())
    assert outlines.role.tolist() == [DONT_CARE, TEXT]


def test_ignored_polygon_is_dont_care() -> None:
    batch = PolygonBatch.from_lists([[rectangle(10, 10, 20, 10)]], [[True]])
    outlines = measure_outlines(batch, SIZE, TargetConfig())
    assert outlines.role.tolist() == [DONT_CARE]
    assert outlines.windows.tolist() == [[10, 20, 10, 30]]


@pytest.mark.parametrize(
    "polygon",
    [
        np.zeros((0, 2)),
        [[5, 5]],
        [[5, 5], [5, 5], [5, 5]],
        [[5, 5], [10, 10], [20, 20]],
        [[5, 5], [np.nan, 10], [20, 5]],
        [[5, 5], [np.inf, 10], [20, 5]],
    ],
)
@pytest.mark.parametrize("ignore", [False, True])
def test_polygon_without_area_is_skipped(polygon: np.ndarray, ignore: bool) -> None:
    batch = PolygonBatch.from_lists([[polygon, rectangle(10, 10, 20, 10)]], [[ignore, False]])
    outlines = measure_outlines(batch, SIZE, TargetConfig(min_side=0))
    assert outlines.role.tolist() == [NOTHING, TEXT]
    assert outlines.windows[0].tolist() == [0, 0, 0, 0]


def test_windows_of_huge_coordinates_stay_in_the_map() -> None:
    batch = PolygonBatch.from_lists([[rectangle(-1e12, -1e12, 2e12, 2e12)]])
    assert measure_outlines(batch, SIZE, TargetConfig()).windows.tolist() == [[0, 100, 0, 200]]


def test_no_polygons() -> None:
    outlines = measure_outlines(PolygonBatch.from_lists([[], []]), SIZE, TargetConfig())
    assert len(outlines.role) == len(outlines.distance) == len(outlines.windows) == 0


def test_measures_of_random_polygons_are_those_of_the_formulas() -> None:
    polygons = random_polygons(np.random.default_rng(3), 4, 100, SIZE)
    config = TargetConfig(map_stride=2)
    outlines = measure_outlines(polygons, SIZE, config)
    for p in range(polygons.num_polygons):
        x, y = polygons.vertices[polygons.vertex_starts[p] : polygons.vertex_starts[p + 1]].astype(np.float64).T
        area = abs(np.sum((x - x[0]) * np.roll(y - y[0], -1) - np.roll(x - x[0], -1) * (y - y[0]))) / 2
        perimeter = np.hypot(x - np.roll(x, -1), y - np.roll(y, -1)).sum()
        if area < 1e-6:
            assert outlines.role[p] == NOTHING
            continue
        short_side = (perimeter / 2 - np.sqrt(max(perimeter**2 / 4 - 4 * area, 0))) / 2
        is_text = not polygons.ignore[p] and short_side >= config.min_side
        assert outlines.role[p] == (TEXT if is_text else DONT_CARE)
        distance = area * (1 - config.shrink_ratio**2) / perimeter if is_text else 0.0
        np.testing.assert_allclose(outlines.distance[p], distance, rtol=1e-9)
        centres = (np.arange(50) + 0.5) * 2, (np.arange(100) + 0.5) * 2
        for axis, values in enumerate((y, x)):
            seen = np.flatnonzero(
                (centres[axis] >= values.min() - distance) & (centres[axis] <= values.max() + distance)
            )
            first, last = outlines.windows[p, 2 * axis : 2 * axis + 2]
            assert seen.tolist() == list(range(first, last))
