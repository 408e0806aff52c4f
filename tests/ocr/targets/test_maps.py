"""Facts about the maps that hold for all three implementations."""

from collections.abc import Callable
from dataclasses import fields

import numpy as np
import pytest
import torch

from ocr.polygons import PolygonBatch
from ocr.targets.config import TargetConfig
from ocr.targets.maps import make_targets
from ocr.targets.numba_maps import make_targets_numba
from ocr.targets.reference import make_targets_reference
from ocr.targets.target_maps import TargetMaps

Way = Callable[[PolygonBatch, tuple[int, int], TargetConfig], TargetMaps]

SIZE = (40, 60)
# D = 0.84 * 200 / 60 = 2.8
BOX = np.array([[10, 10], [30, 10], [30, 20], [10, 20]])


@pytest.fixture(params=["numba", "triton", "reference"])
def make(request: pytest.FixtureRequest) -> Way:
    if request.param == "triton":
        return request.getfixturevalue("interpreted")
    return {"numba": make_targets_numba, "reference": make_targets_reference}[request.param]


def ones(rows: slice, cols: slice) -> torch.Tensor:
    """(1, H, W), 1 in the given part."""
    expected = torch.zeros(1, *SIZE)
    expected[:, rows, cols] = 1
    return expected


def test_shrink_map_is_the_core_at_least_the_distance_from_the_border(make: Way) -> None:
    maps = make(PolygonBatch.from_lists([[BOX]]), SIZE, TargetConfig())
    # Centres 12.5 and 27.5 are 2.5 away from the border, 13.5 and 26.5 are 3.5 away.
    assert torch.equal(maps.shrink_map, ones(slice(13, 17), slice(13, 27)))
    assert torch.equal(maps.shrink_mask, torch.ones(1, *SIZE))


def test_thresh_map_falls_from_the_border_on_both_sides(make: Way) -> None:
    maps = make(PolygonBatch.from_lists([[BOX]]), SIZE, TargetConfig())
    column = maps.thresh_map[0, 6:15, 20]
    distances = torch.tensor([3.5, 2.5, 1.5, 0.5, 0.5, 1.5, 2.5, 3.5, 4.5])
    torch.testing.assert_close(column, 0.3 + 0.4 * (1 - distances / 2.8).clamp_min(0))
    assert column[0] == column[-1] == torch.tensor(0.3)


def test_thresh_mask_is_the_inside_and_the_band_with_round_corners(make: Way) -> None:
    mask = make(PolygonBatch.from_lists([[BOX]]), SIZE, TargetConfig()).thresh_mask
    expected = ones(slice(7, 23), slice(7, 33))
    # hypot(2.5, 2.5) and hypot(2.5, 1.5) are beyond 2.8, hypot(2.5, 0.5) and hypot(1.5, 1.5) are not.
    for row, col in [(0, 0), (0, 1), (1, 0)]:
        for corner in [(7 + row, 7 + col), (22 - row, 7 + col), (7 + row, 32 - col), (22 - row, 32 - col)]:
            expected[(0, *corner)] = 0
    assert torch.equal(mask, expected)


def test_distance_to_an_edge_is_perpendicular_however_short_the_edge(make: Way) -> None:
    # A square of 60 with a vertex every 10: 8 below the middle of an edge of 10, 9.43 = hypot(8, 5) away from its ends.
    ticks = np.arange(0, 60, 10)
    top = np.column_stack([ticks, np.zeros(6)])
    turn = np.array([[0, 1], [-1, 0]])
    sides = [(top - 30) @ np.linalg.matrix_power(turn, quarter) for quarter in range(4)]
    square = np.concatenate(sides) + 30 + 10.5
    maps = make(PolygonBatch.from_lists([[square]]), (80, 80), TargetConfig())
    distance = 0.84 * 3600 / 240
    assert maps.thresh_map[0, 18, 35].item() == pytest.approx(0.3 + 0.4 * (1 - 8 / distance), abs=1e-6)


def test_map_stride_samples_the_same_polygons_at_map_pixel_centres(make: Way) -> None:
    maps = make(PolygonBatch.from_lists([[BOX]], [[False]]), SIZE, TargetConfig())
    strided = make(PolygonBatch.from_lists([[BOX * 4]]), (4 * SIZE[0], 4 * SIZE[1]), TargetConfig(map_stride=4))
    for field in fields(maps):
        torch.testing.assert_close(getattr(strided, field.name), getattr(maps, field.name), msg=field.name)


def test_direction_of_the_vertices_does_not_matter(make: Way) -> None:
    triangle = np.array([[5, 5], [50, 8], [20, 35]])
    one, other = (make(PolygonBatch.from_lists([[p]]), SIZE, TargetConfig()) for p in (triangle, triangle[::-1]))
    assert torch.equal(one.shrink_map, other.shrink_map)
    torch.testing.assert_close(one.thresh_map, other.thresh_map)


def test_polygon_partly_outside_is_drawn_as_if_the_image_continued(make: Way) -> None:
    batch = PolygonBatch.from_lists([[BOX]])
    cut = make(batch.transformed(np.array([[[1, 0, -20], [0, 1, -12], [0, 0, 1]]])), SIZE, TargetConfig())
    whole = make(batch, SIZE, TargetConfig())
    for field in fields(cut):
        inside = getattr(whole, field.name)[:, 12:, 20:]
        torch.testing.assert_close(getattr(cut, field.name)[:, :28, :40], inside, msg=field.name)


def test_meeting_bands_keep_the_greater_threshold(make: Way) -> None:
    below = BOX + np.array([0, 12])
    batch = PolygonBatch.from_lists([[BOX], [below], [BOX, below]])
    first, second, both = make(batch, SIZE, TargetConfig()).thresh_map
    torch.testing.assert_close(both, torch.maximum(first, second))
    assert both[20, 20] == both[21, 20] > 0.3


def test_band_of_a_word_does_not_cut_the_core_of_another(make: Way) -> None:
    inner = np.array([[14, 11], [26, 11], [26, 19], [14, 19]])
    first, second, both = make(PolygonBatch.from_lists([[BOX], [inner], [BOX, inner]]), SIZE, TargetConfig()).shrink_map
    assert torch.equal(both, torch.maximum(first, second))


def test_ignored_polygon_is_masked_out_and_nothing_else(make: Way) -> None:
    maps = make(PolygonBatch.from_lists([[BOX]], [[True]]), SIZE, TargetConfig())
    assert torch.equal(maps.shrink_mask, 1 - ones(slice(10, 20), slice(10, 30)))
    assert not maps.shrink_map.any()
    assert not maps.thresh_mask.any()
    assert (maps.thresh_map == torch.tensor(0.3)).all()


def test_too_small_polygon_is_masked_out_like_an_ignored_one(make: Way) -> None:
    ignored = make(PolygonBatch.from_lists([[BOX]], [[True]]), SIZE, TargetConfig())
    too_small = make(PolygonBatch.from_lists([[BOX]]), SIZE, TargetConfig(min_side=10.01))
    for field in fields(ignored):
        assert torch.equal(getattr(too_small, field.name), getattr(ignored, field.name)), field.name


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_core_of_a_legible_word_counts_inside_an_ignored_region(make: Way, order: list[int]) -> None:
    region = np.array([[5, 5], [25, 5], [25, 30], [5, 30]])
    polygons, ignore = [BOX, region], [False, True]
    batch = PolygonBatch.from_lists([[polygons[i] for i in order]], [[ignore[i] for i in order]])
    maps = make(batch, SIZE, TargetConfig())
    core = ones(slice(13, 17), slice(13, 27))
    assert torch.equal(maps.shrink_map, core)
    assert torch.equal(maps.shrink_mask, torch.maximum(1 - ones(slice(5, 30), slice(5, 25)), core))
    # The rim of the word lies inside the ignored region, so it stays masked out.
    assert maps.shrink_mask[0, 11, 15] == 0


@pytest.mark.parametrize(
    "polygon",
    [[[5, 5]] * 3, [[5, 5], [15, 15], [30, 30]], [[10.5, 3], [10.5, 30], [10.5, 9]], [[5, 5], [np.nan, 9], [9, 9]]],
    ids=["point", "diagonal", "upright", "nan"],
)
@pytest.mark.parametrize("ignore", [False, True])
def test_polygon_without_area_is_not_drawn(make: Way, polygon: list[list[float]], ignore: bool) -> None:
    config = TargetConfig(min_side=0)
    without, with_it = PolygonBatch.from_lists([[BOX]]), PolygonBatch.from_lists([[polygon, BOX]], [[ignore, False]])
    expected, maps = make(without, SIZE, config), make(with_it, SIZE, config)
    for field in fields(maps):
        assert torch.equal(getattr(maps, field.name), getattr(expected, field.name)), field.name


def test_image_without_polygons_is_unmasked_background(make: Way) -> None:
    far = BOX + 1000
    maps = make(PolygonBatch.from_lists([[], [BOX], [far]]), SIZE, TargetConfig())
    for image in (0, 2):
        assert not maps.shrink_map[image].any()
        assert maps.shrink_mask[image].all()
        assert not maps.thresh_mask[image].any()
        assert (maps.thresh_map[image] == torch.tensor(0.3)).all()
    assert maps.shrink_map[1].any()


@pytest.mark.parametrize("stride", [1, 4])
@pytest.mark.parametrize("num_images", [0, 2])
def test_shape_and_type(make: Way, stride: int, num_images: int) -> None:
    config = TargetConfig.model_validate({"map_stride": stride})
    maps = make(PolygonBatch.from_lists([[]] * num_images), (40, 60), config)
    for field in fields(maps):
        tensor = getattr(maps, field.name)
        assert tensor.shape == (num_images, 40 // stride, 60 // stride)
        assert tensor.dtype == torch.float32


def test_images_of_a_batch_are_independent(make: Way) -> None:
    batch = PolygonBatch.from_lists([[BOX], [BOX + 7, BOX - 4], []], [[True], [False, False], []])
    together = make(batch, SIZE, TargetConfig())
    for image in range(3):
        alone = make(batch.select([image]), SIZE, TargetConfig())
        for field in fields(alone):
            assert torch.equal(getattr(together, field.name)[image], getattr(alone, field.name)[0]), field.name


def test_arguments_are_not_modified(make: Way) -> None:
    batch = PolygonBatch.from_lists([[BOX, BOX[::-1] + 5], [BOX]], [[True, False], [False]])
    before = {field.name: getattr(batch, field.name).copy() for field in fields(batch)}
    make(batch, SIZE, TargetConfig())
    for name, array in before.items():
        np.testing.assert_array_equal(getattr(batch, name), array)


def test_make_targets_takes_the_compiled_path_on_the_cpu() -> None:
    batch = PolygonBatch.from_lists([[BOX]])
    maps, expected = make_targets(batch, SIZE, TargetConfig()), make_targets_numba(batch, SIZE, TargetConfig())
    for field in fields(maps):
        assert torch.equal(getattr(maps, field.name), getattr(expected, field.name))


def test_make_targets_copies_maps_to_a_device_that_is_not_cuda() -> None:
    maps = make_targets(PolygonBatch.from_lists([[BOX]]), SIZE, TargetConfig(), "meta")
    assert maps.shrink_map.device.type == "meta"
    assert maps.shrink_map.shape == (1, *SIZE)


def test_blanked_images_have_no_weight() -> None:
    maps = make_targets(PolygonBatch.from_lists([[BOX], [BOX]]), SIZE, TargetConfig())
    blanked = maps.blanked(torch.tensor([False, True]))
    assert not blanked.shrink_mask[1].any()
    assert not blanked.thresh_mask[1].any()
    assert torch.equal(blanked.shrink_mask[0], maps.shrink_mask[0])
    assert torch.equal(blanked.thresh_mask[0], maps.thresh_mask[0])
    assert maps.shrink_mask[1].all()
    assert blanked.shrink_map is maps.shrink_map


def test_small_text_weighs_the_average_area_by_its_own(make: Way) -> None:
    large, small = (
        BOX * [2, 1] - [10, 0],
        BOX / 2 + [5, 25],
    )  # areas 400 and 50: on average 225, 4.5 times the small one
    batch = PolygonBatch.from_lists([[large, small]])
    unweighted = make(batch, SIZE, TargetConfig(min_side=4))
    assert unweighted.shrink_mask.unique().tolist() == [1]
    for limit, expected in ((3, 3), (20, 5)):
        maps = make(batch, SIZE, TargetConfig(min_side=4, max_text_weight=limit))
        is_small = unweighted.thresh_mask * (torch.arange(SIZE[0])[:, None] > 27)
        assert is_small[0, 30:35, 10:20].all()
        assert torch.equal(maps.shrink_mask, 1 + (expected - 1) * is_small)
        assert torch.equal(maps.shrink_map, unweighted.shrink_map)


def test_weights_compare_legible_text_in_the_input_only(make: Way) -> None:
    config = TargetConfig(min_side=4, max_text_weight=20)
    ignored, tiny = BOX * 3 - [20, 20], np.array([[40, 2], [43, 2], [43, 5], [40, 5]])
    large = BOX * 10 - [100, 100]  # 200 x 100
    shifts = np.array([[200, 0], [-200, 0], [SIZE[1], 0], [0, -100], [0, SIZE[0]]])  # the last four touch the input
    images = [[BOX, large + shift, ignored, tiny] for shift in shifts]
    batch = PolygonBatch.from_lists(images, [[False, False, True, False]] * len(images))
    assert make(batch, SIZE, config).shrink_mask.unique().tolist() == [0, 1]


def test_overlapping_texts_have_the_greater_weight(make: Way) -> None:
    config = TargetConfig(min_side=4, max_text_weight=20)
    large, small = np.array([[4, 4], [56, 4], [56, 36], [4, 36]]), BOX
    for polygons in ([large, small], [small, large]):
        mask = make(PolygonBatch.from_lists([polygons]), SIZE, config).shrink_mask
        assert mask[0, 10:20, 10:30].unique().tolist() == [5]  # average area 932, 4.66 times the small one
        assert mask[0, 24:].unique().tolist() == [1]


def test_weights_do_not_uncover_ignored_regions(make: Way) -> None:
    config = TargetConfig(min_side=4, max_text_weight=20)
    large, ignored = np.array([[2, 28], [58, 28], [58, 38], [2, 38]]), BOX + np.array([12, 0])
    maps = make(PolygonBatch.from_lists([[large, BOX, ignored]], [[False, False, True]]), SIZE, config)
    inside_ignored = maps.shrink_mask[0, 10:20, 22:42]
    is_core = maps.shrink_map[0, 10:20, 22:42] > 0
    assert is_core.any()
    assert inside_ignored[is_core].unique().tolist() == [2]  # average area 380, 1.9 times the small one
    assert inside_ignored[~is_core].unique().tolist() == [0]
