"""Target maps on the device against the exact reference: error and speed"""

import numpy as np
import pytest

from benchmarks.targets import MAX_SHRINK_SHARE, MAX_THRESH_ERROR, drawn_boxes, read_polygons, time_targets
from ocr.targets.agreement import random_polygons
from ocr.targets.config import TargetConfig

pytestmark = pytest.mark.gpu

MIN_TIMES_FASTER = 100.0
"""Speed of a GPU relative to the reference."""


@pytest.mark.parametrize("stride", [1, 2, 4])
@pytest.mark.parametrize("polygon_set", ["annotated words", "drawn boxes", "random polygons"])
def test_target_maps_agree_with_the_reference(polygon_set, stride, given_set, on_cpu, record):
    side, num_images, num_random, rounds = (320, 4, 40, 2) if on_cpu else (640, 16, 200, 3)
    size = (side, side)
    if polygon_set == "annotated words":
        polygons = read_polygons(given_set / "jsons" / "val.json", num_images, size)
    elif polygon_set == "drawn boxes":
        polygons = drawn_boxes(np.random.default_rng(0), 60, size)
    else:
        rng = np.random.default_rng(1)
        polygons = random_polygons(rng, num_images=-(-num_random // 20), polygons_per_image=20, size=size)
    row = time_targets(polygon_set, polygons, size, TargetConfig(map_stride=stride), rounds)
    on_device = "compiled" if on_cpu else "triton, cuda"
    for way, agreement in row.agreement.items():
        share = agreement.shrink_map_share
        record(f"{way}: shrink map pixels that differ", 100 * share, "%", at_most=100 * MAX_SHRINK_SHARE)
        record(f"{way}: threshold map error", agreement.thresh_map_error, at_most=MAX_THRESH_ERROR)
    for way, times in row.milliseconds_per_image.items():
        record(f"{way}: time", times, "ms/image")
    # A GPU needs more than one image to be busy.
    limit = MIN_TIMES_FASTER if row.images > 1 and not on_cpu else None
    record(f"{on_device}: speed", row.times_faster(on_device), "times the reference", at_least=limit)
