"""Target maps on the device against the exact reference: error and speed."""

from dataclasses import asdict

import numpy as np

from benchmarks.gpu_check.figures import Figures, Keep
from benchmarks.gpu_check.images import device_of, given_or_drawn
from benchmarks.gpu_check.settings import CheckSettings
from benchmarks.targets import drawn_boxes, read_polygons, time_targets
from ocr.targets import TargetConfig
from ocr.targets.agreement import random_polygons


def measure(settings: CheckSettings, keep: Keep) -> None:
    side = 320 if settings.cpu else 640
    size = (side, side)
    annotations = given_or_drawn(settings) / "jsons" / "val.json"
    num_images, num_random, rounds = (4, 40, 2) if settings.cpu else (16, 200, 3)
    sets = {
        "annotated words": read_polygons(annotations, num_images, size),
        "drawn boxes": drawn_boxes(np.random.default_rng(0), 60, size),
        "random polygons": random_polygons(
            np.random.default_rng(1), num_images=-(-num_random // 20), polygons_per_image=20, size=size
        ),
    }
    way = f"torch, {device_of(settings).type}"
    rows: list[Figures] = []
    for name, polygons in sets.items():
        for stride in (1, 4):
            row = time_targets(name, polygons, size, TargetConfig(map_stride=stride), rounds)
            ways = [each for each in row.milliseconds_per_image if each != "reference"]
            rows.append(
                asdict(row) | {"agrees": row.agrees, "times_faster": {each: row.times_faster(each) for each in ways}}
            )
            keep({"size": side, "way": way, "rows": rows})
