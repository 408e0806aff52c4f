"""Compares the fast implementations with the reference, on random and on real polygons."""

import json
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import shapely
import torch

from ocr.polygons import PolygonBatch
from ocr.targets.agreement import Agreement, compare_maps, random_polygons
from ocr.targets.config import TargetConfig
from ocr.targets.numba_maps import make_targets_numba
from ocr.targets.reference import make_targets_reference
from ocr.targets.target_maps import TargetMaps

Way = Callable[[PolygonBatch, tuple[int, int], TargetConfig], TargetMaps]

strides = pytest.mark.parametrize("stride", [1, 2, 4])


@pytest.fixture(params=["numba", "triton"])
def make(request: pytest.FixtureRequest) -> Way:
    """A fast implementation. The interpreter takes less time for large tiles."""
    if request.param == "numba":
        return make_targets_numba
    return partial(request.getfixturevalue("interpreted"), tile=(64, 128))


@pytest.fixture
def num_images(make: Way) -> int:
    """Images to draw; few in the interpreter, which takes a second for each."""
    return 8 if make is make_targets_numba else 1


def assert_agrees(
    make: Way,
    polygons_input: PolygonBatch,
    size: tuple[int, int],
    stride: int,
    min_side: float = 8.0,
    max_mask_share: float = 1e-3,
    max_text_weight: int = 1,
) -> None:
    settings = {"map_stride": stride, "min_side": min_side, "max_text_weight": max_text_weight}
    config = TargetConfig.model_validate(settings)
    reference = make_targets_reference(polygons_input, size, config)
    agreement = compare_maps(make(polygons_input, size, config), reference, polygons_input, size, config)
    assert agreement.box_pixels > 1000, "hardly anything was compared"
    assert agreement.shrink_map_share <= 0.002
    assert agreement.thresh_map_error <= 1e-4
    assert agreement.shrink_mask_pixels <= max_mask_share * agreement.box_pixels
    assert agreement.thresh_mask_pixels <= max_mask_share * agreement.box_pixels


@strides
def test_random_polygons(make: Way, num_images: int, stride: int) -> None:
    size = (320, 448) if num_images > 1 else (256, 256)
    polygons_input = random_polygons(np.random.default_rng(7), num_images, polygons_per_image=20, size=size)
    assert_agrees(make, polygons_input, size, stride)


def test_random_polygons_of_any_thickness(make: Way, num_images: int) -> None:
    # Without min_side, thin polygons are text too, with bands narrower than a pixel.
    polygons_input = random_polygons(np.random.default_rng(8), num_images, polygons_per_image=20, size=(320, 448))
    assert_agrees(make, polygons_input, (320, 448), stride=1, min_side=0)


def test_random_polygons_with_weights(make: Way, num_images: int) -> None:
    polygons_input = random_polygons(np.random.default_rng(9), num_images, polygons_per_image=20, size=(256, 256))
    weights = make(polygons_input, (256, 256), TargetConfig(max_text_weight=255)).shrink_mask
    assert len(weights.unique()) > 3
    assert_agrees(make, polygons_input, (256, 256), stride=1, max_text_weight=255)


@strides
@pytest.mark.parametrize("max_text_weight", [1, 8])
@pytest.mark.parametrize("data_set", ["sroie", "icdar15"])
def test_real_polygons(data_set: str, max_text_weight: int, stride: int, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(data_set)
    images = list(json.loads((folder / "jsons/val.json").read_text())["images"].values())[:4]
    words = [list(image["words"].values()) for image in images]
    polygons_input = PolygonBatch.from_lists(
        [
            [np.array(word["points"]) * 640 / max(image["img_w"], image["img_h"]) for word in page]
            for image, page in zip(images, words, strict=True)
        ],
        [[word.get("illegibility", False) for word in page] for page in words],
    )
    assert_agrees(make_targets_numba, polygons_input, (640, 640), stride, max_text_weight=max_text_weight)


def test_vertices_on_or_near_pixel_centres_flip_no_row(make: Way, num_images: int) -> None:
    rng = np.random.default_rng(9)
    polygons_input = random_polygons(rng, num_images, polygons_per_image=20, size=(320, 320))
    on_centres = np.floor(polygons_input.vertices) + np.float32(0.5)
    nudged = np.nextafter(on_centres, rng.choice([-np.inf, np.inf], on_centres.shape).astype(np.float32))
    vertices = np.where(rng.random(on_centres.shape) < 0.5, on_centres, nudged)
    snapped = PolygonBatch(
        vertices, polygons_input.vertex_starts, polygons_input.polygon_starts, np.ones_like(polygons_input.ignore)
    )
    # All are ignored, so that the whole inside shows. A centre exactly on the border may fall on either side, a run of centres may
    # not.
    config = TargetConfig()
    mask, expected = (draw(snapped, (320, 320), config).shrink_mask for draw in (make, make_targets_reference))
    differs = (mask != expected).float()
    assert differs.mean() < 1e-3
    assert torch.nn.functional.avg_pool2d(differs, (1, 5), 1).max() < 1


def test_order_of_the_polygons_does_not_matter(make: Way) -> None:
    num_polygons = 60 if make is make_targets_numba else 10
    polygons_input = random_polygons(np.random.default_rng(10), 1, num_polygons, size=(256, 256))
    order = np.random.default_rng(11).permutation(num_polygons)
    polygons, ignore = polygons_input.polygons_of(0), polygons_input.ignore_of(0)
    shuffled = PolygonBatch.from_lists([[polygons[i] for i in order]], [[bool(ignore[i]) for i in order]])
    maps = [make(batch, (256, 256), TargetConfig()) for batch in (polygons_input, shuffled)]
    for field in fields(TargetMaps):
        assert torch.equal(getattr(maps[0], field.name), getattr(maps[1], field.name)), field.name


def test_random_polygons_have_all_kinds_and_do_not_cross_themselves() -> None:
    size = (300, 400)
    batch = random_polygons(np.random.default_rng(3), num_images=10, polygons_per_image=50, size=size)
    shapes = [shapely.Polygon(polygon.astype(float)) for image in range(10) for polygon in batch.polygons_of(image)]
    with_area = [shape for shape in shapes if shape.area > 0.1]
    frame = shapely.box(0, 0, size[1], size[0])
    assert all(shape.is_valid for shape in with_area)
    assert 10 < len(shapes) - len(with_area) < 100
    assert sum(not shape.intersects(frame) for shape in with_area) > 30
    assert sum(shape.crosses(frame.exterior) or shape.overlaps(frame) for shape in with_area) > 30
    assert sum(shape.equals(shape.convex_hull) for shape in with_area) > 50
    assert sum(shape.area < 0.7 * shape.convex_hull.area for shape in with_area) > 50
    assert set(np.diff(batch.vertex_starts)) >= {3, 10, 20, 30}
    assert 20 < batch.ignore.sum() < 80
    assert {bool(shape.exterior.is_ccw) for shape in with_area} == {True, False}


def test_each_difference_and_each_pixel_of_a_box_counts_once() -> None:
    box = np.array([[2, 2], [8, 2], [8, 6], [2, 6]])
    batch = PolygonBatch.from_lists([[box, box + 1, box + 100, box[:, :1] * [1, 1]]])
    plain = torch.zeros(1, 10, 10)
    changed = plain.clone()
    changed[0, 3, 3:5] = 0.25
    agreement = compare_maps(
        TargetMaps(changed, plain, changed, plain),
        TargetMaps(plain, plain, plain, plain),
        batch,
        (10, 10),
        TargetConfig(),
    )
    # Two boxes of 24 pixels share 15; one is outside, one has no area.
    assert agreement == Agreement(33, 2, 0, 0, 0.25)
    assert agreement.shrink_map_share == pytest.approx(2 / 33)
    assert agreement + Agreement(10, 1, 2, 3, 0.5) == Agreement(43, 3, 2, 3, 0.5)
