"""Time per image of the ground-truth maps, all ways to make them side by side, and how far they agree."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch

from ocr.device import resolve_device
from ocr.polygons import PolygonBatch
from ocr.targets import TargetConfig, TargetMaps
from ocr.targets.agreement import Agreement, compare_maps
from ocr.targets.numba_maps import make_targets_numba
from ocr.targets.reference import make_targets_reference
from ocr.targets.torch_maps import make_targets_torch

MAX_SHRINK_SHARE = 0.002
"""Of the pixels of the polygons' boxes."""
MAX_THRESH_ERROR = 0.01

Way = Callable[[PolygonBatch, tuple[int, int], TargetConfig], TargetMaps]


@dataclass(frozen=True)
class Row:
    """One set of polygons at one stride; the keys of the dicts are the ways to make maps."""

    polygon_set: str
    map_stride: int
    images: int
    polygons: int
    milliseconds_per_image: dict[str, list[float]]
    agreement: dict[str, Agreement]

    def times_faster(self, way: str) -> float:
        """Than the reference, by the medians."""
        return median(self.milliseconds_per_image["reference"]) / median(self.milliseconds_per_image[way])

    @property
    def agrees(self) -> bool:
        return all(
            agreement.shrink_map_share <= MAX_SHRINK_SHARE and agreement.thresh_map_error <= MAX_THRESH_ERROR
            for agreement in self.agreement.values()
        )


def drawn_boxes(rng: np.random.Generator, num_boxes: int, size: tuple[int, int]) -> PolygonBatch:
    """One image of boxes like lines of text, 30 to 250 long and 10 to 30 high, turned by up to 10 degrees."""
    half_sizes = rng.uniform([30, 10], [250, 30], (num_boxes, 2))[:, None] / 2
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half_sizes
    turn = np.radians(rng.uniform(-10, 10, num_boxes))
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]).transpose(2, 0, 1)
    centers = rng.uniform(0, size[::-1], (num_boxes, 2))[:, None]
    return PolygonBatch.from_lists([list(corners @ rotation + centers)])


def read_polygons(annotation_file: Path, num_images: int, size: tuple[int, int]) -> PolygonBatch:
    """The words of the first images of an Upstage JSON file, scaled so that the longest side fills the input."""
    images = list(json.loads(annotation_file.read_text())["images"].values())[:num_images]
    words = [list(image["words"].values()) for image in images]
    scales = [size[0] / max(image["img_w"], image["img_h"]) for image in images]
    return PolygonBatch.from_lists(
        [[np.array(word["points"]) * scale for word in page] for page, scale in zip(words, scales, strict=True)],
        [[bool(word.get("illegibility") or word.get("ignore")) for word in page] for page in words],
    )


def measure(name: str, polygons_input: PolygonBatch, size: tuple[int, int], config: TargetConfig, rounds: int) -> Row:
    """Times and differences. The first maps made each way warm it up and are compared; then the ways take turns."""
    ways = _ways()
    maps = {way: make(polygons_input, size, config) for way, make in ways.items()}
    milliseconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, make in ways.items():
            start = time.perf_counter()
            make(polygons_input, size, config)
            milliseconds[way].append((time.perf_counter() - start) * 1000 / len(polygons_input))
    agreement = {
        way: compare_maps(maps[way], maps["reference"], polygons_input, size, config)
        for way in ways
        if way != "reference"
    }
    return Row(name, config.map_stride, len(polygons_input), polygons_input.num_polygons, milliseconds, agreement)


def _ways() -> dict[str, Way]:
    device = resolve_device("auto").type
    return {
        "reference": make_targets_reference,
        "compiled": partial(make_targets_numba, num_threads=1),
        f"torch, {device}": partial(_make_on_device, device),
    }


def _make_on_device(
    device: str, polygons_input: PolygonBatch, size: tuple[int, int], config: TargetConfig
) -> TargetMaps:
    maps = make_targets_torch(polygons_input, size, config, device)
    if device == "cuda":
        torch.cuda.synchronize()
    return maps
