"""Compares the reference with shapely, which shares no code with it."""

import numpy as np
import pytest
import shapely
import torch

from ocr.polygons import PolygonBatch
from ocr.targets.config import TargetConfig
from ocr.targets.reference import make_targets_reference

SIZE = (90, 120)
SHAPES = {
    "convex": [[20.3, 15.2], [90.1, 30.7], [70.6, 75.4]],
    # The core has two pieces.
    "waisted": [[10, 10], [60, 38], [110, 10], [110, 80], [60, 52], [10, 80]],
    # Grown, it closes around a hole.
    "ring": [
        *([20, 15], [100, 15], [100, 75], [64, 75], [64, 60], [85, 60]),
        *([85, 30], [35, 30], [35, 60], [56, 60], [56, 75], [20, 75]),
    ],
}


@pytest.mark.parametrize("stride", [1, 4])
@pytest.mark.parametrize("shape", SHAPES)
def test_maps_agree_with_distances_from_shapely(shape: str, stride: int) -> None:
    config = TargetConfig.model_validate({"map_stride": stride})
    polygon = shapely.Polygon(SHAPES[shape])
    maps = make_targets_reference(PolygonBatch.from_lists([[SHAPES[shape]]]), SIZE, config)

    y, x = (np.indices((SIZE[0] // stride, SIZE[1] // stride)) + 0.5) * stride
    points = shapely.points(x, y)
    distances, inside = shapely.distance(points, polygon.exterior), shapely.contains(polygon, points)
    limit = polygon.area * (1 - 0.4**2) / polygon.length
    # Clipper works in 1/1000 pixels; closer to the limit it may decide either way.
    clear = torch.from_numpy(abs(distances - limit) > 0.002)
    core, text = torch.from_numpy(inside & (distances >= limit)), torch.from_numpy(inside | (distances < limit))
    assert torch.equal(maps.shrink_map[0].bool() & clear, core & clear)
    assert torch.equal(maps.thresh_mask[0].bool() & clear, text & clear)
    expected = torch.from_numpy(0.3 + 0.4 * np.maximum(0, 1 - distances / limit))
    torch.testing.assert_close(maps.thresh_map[0], expected.float(), rtol=0, atol=1e-6)


def test_shapes_have_the_expected_pieces_and_holes() -> None:
    waisted, ring = shapely.Polygon(SHAPES["waisted"]), shapely.Polygon(SHAPES["ring"])
    assert shapely.get_num_geometries(waisted.buffer(-0.84 * waisted.area / waisted.length)) == 2
    assert shapely.get_num_interior_rings(ring.buffer(0.84 * ring.area / ring.length)) == 1
