"""Ground-truth maps: time per image of each implementation, and how far it is from the exact reference."""

import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks.environment import provenance
from benchmarks.report import Table
from ocr.polygons import PolygonBatch
from ocr.targets.agreement import Agreement, compare_maps, random_polygons
from ocr.targets.config import TargetConfig
from ocr.targets.numba_maps import make_targets_numba
from ocr.targets.reference import make_targets_reference
from ocr.targets.target_maps import TargetMaps

MAX_SHRINK_SHARE = 0.002
"""Share of the pixels in the polygons' boxes that may differ in the shrink map."""
MAX_THRESH_ERROR = 0.01
STRIDES = (1, 2, 4)
INTERPRETED = "triton, interpreted"
"""The kernel in Triton's interpreter: compared, but not timed."""

MakeMaps = Callable[[PolygonBatch, tuple[int, int], TargetConfig], TargetMaps]


@dataclass(frozen=True)
class TargetTimes:
    """One set of polygons at one stride; the keys of the dicts name the implementations."""

    polygon_set: str
    map_stride: int
    images: int
    polygons: int
    milliseconds_per_image: dict[str, list[float]]
    """One value per round; empty for `INTERPRETED`."""
    agreement: dict[str, Agreement]
    """With the reference."""

    def times_faster(self, implementation: str) -> float:
        """Returns the speed relative to the reference, by the medians."""
        return median(self.milliseconds_per_image["reference"]) / median(self.milliseconds_per_image[implementation])

    @property
    def agrees(self) -> bool:
        """Whether all implementations stay within the limits."""
        return all(
            agreement.shrink_map_share <= MAX_SHRINK_SHARE and agreement.thresh_map_error <= MAX_THRESH_ERROR
            for agreement in self.agreement.values()
        )


def benchmark_targets(
    annotations: Iterable[Path],
    num_images: int,
    num_random: int,
    size: tuple[int, int],
    rounds: int,
    with_extremes: bool = False,
) -> list[TargetTimes]:
    """Times drawn boxes, annotated words and random polygons at strides 1, 2 and 4.

    Args:
        annotations: Upstage JSON files.
        num_images: images taken of each file.
        num_random: random polygons, 20 per image.
        size: (H, W) of the input.
        rounds: timed rounds after a warm-up.
        with_extremes: also times 1,500 boxes in an image, and a polygon of 500 vertices.
    """
    polygon_sets = {"drawn boxes": drawn_boxes(np.random.default_rng(0), 60, size)}
    polygon_sets |= {str(file): read_polygons(file, num_images, size) for file in annotations}
    polygon_sets["random polygons"] = random_polygons(
        np.random.default_rng(1), num_images=-(-num_random // 20), polygons_per_image=20, size=size
    )
    if with_extremes:
        polygon_sets["boxes in one image"] = drawn_boxes(np.random.default_rng(2), 1500, size)
        polygon_sets["star of 500 vertices"] = star(500, size)
    return [
        time_targets(name, polygons, size, TargetConfig(map_stride=stride), rounds)
        for name, polygons in polygon_sets.items()
        for stride in STRIDES
    ]


def drawn_boxes(rng: np.random.Generator, num_boxes: int, size: tuple[int, int]) -> PolygonBatch:
    """Returns one image of boxes like lines of text: 30 to 250 long, 10 to 30 high, rotated by up to 10 degrees."""
    half_sizes = rng.uniform([30, 10], [250, 30], (num_boxes, 2))[:, None] / 2
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half_sizes
    turn = np.radians(rng.uniform(-10, 10, num_boxes))
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]).transpose(2, 0, 1)
    centers = rng.uniform(0, size[::-1], (num_boxes, 2))[:, None]
    return PolygonBatch.from_lists([list(corners @ rotation + centers)])


def star(num_vertices: int, size: tuple[int, int]) -> PolygonBatch:
    """Returns one image of a star that fills most of it, with every second vertex closer to the centre."""
    angle = np.arange(num_vertices) * 2 * np.pi / num_vertices
    radius = min(size) * np.where(np.arange(num_vertices) % 2, 0.35, 0.45)
    center = np.array([size[1], size[0]]) / 2
    return PolygonBatch.from_lists([[center + radius[:, None] * np.column_stack([np.cos(angle), np.sin(angle)])]])


def read_polygons(annotation_file: Path, num_images: int, size: tuple[int, int]) -> PolygonBatch:
    """Reads the words of the first images of an Upstage JSON file, scaled so that the longest side fills the input."""
    images = list(json.loads(annotation_file.read_text())["images"].values())[:num_images]
    words = [list(image["words"].values()) for image in images]
    scales = [size[0] / max(image["img_w"], image["img_h"]) for image in images]
    return PolygonBatch.from_lists(
        [[np.array(word["points"]) * scale for word in page] for page, scale in zip(words, scales, strict=True)],
        [[bool(word.get("illegibility") or word.get("ignore")) for word in page] for page in words],
    )


def time_targets(
    name: str, polygons_input: PolygonBatch, size: tuple[int, int], config: TargetConfig, rounds: int
) -> TargetTimes:
    """Returns times and differences of all implementations: reference (pyclipper and NumPy), compiled (numba, one thread), and the
    Triton kernel on a GPU or, with TRITON_INTERPRET=1, in Triton's interpreter.

    The first maps of each are the warm-up and are compared; then the implementations take turns.
    """
    implementations: dict[str, MakeMaps] = {
        "reference": make_targets_reference,
        "compiled": partial(make_targets_numba, num_threads=1),
    }
    if torch.cuda.is_available():
        implementations["triton, cuda"] = partial(_make_with_triton, "cuda")
    elif os.environ.get("TRITON_INTERPRET") == "1":
        implementations[INTERPRETED] = partial(_make_with_triton, "cpu")
    maps = {name: make(polygons_input, size, config) for name, make in implementations.items()}
    milliseconds: dict[str, list[float]] = {name: [] for name in implementations}
    for _ in range(rounds):
        for implementation, make in implementations.items():
            if implementation == INTERPRETED:
                continue
            start = time.perf_counter()
            make(polygons_input, size, config)
            milliseconds[implementation].append((time.perf_counter() - start) * 1000 / len(polygons_input))
    reference = maps.pop("reference")
    agreement = {name: compare_maps(found, reference, polygons_input, size, config) for name, found in maps.items()}
    return TargetTimes(
        name, config.map_stride, len(polygons_input), polygons_input.num_polygons, milliseconds, agreement
    )


def _make_with_triton(
    device: str, polygons_input: PolygonBatch, size: tuple[int, int], config: TargetConfig
) -> TargetMaps:
    from ocr.targets.triton_maps import (
        TILE,
        make_targets_triton,
    )  # only here: builds of PyTorch without CUDA have no Triton

    # The interpreter takes a fifth of the time for large tiles; the maps are the same.
    maps = make_targets_triton(polygons_input, size, config, device, TILE if device == "cuda" else (128, 128))
    if device == "cuda":
        torch.cuda.synchronize()
    return maps


def targets_document(rows: Sequence[TargetTimes], size: tuple[int, int]) -> dict[str, Any]:
    """Returns every time and difference with the machine, for a JSON file."""
    return provenance() | {"size": size, "rows": [asdict(row) for row in rows]}


def targets_table(rows: Sequence[TargetTimes], size: tuple[int, int]) -> Table:
    """Returns one line for each set of polygons, stride and implementation."""
    cells = [
        [
            f"{row.polygons} {Path(row.polygon_set).name}",
            str(row.images),
            str(row.map_stride),
            name,
            f"{median(times):.2f} ({min(times):.2f} - {max(times):.2f})" if times else "",
            f"{row.times_faster(name):.1f}x" if times else "",
            *_difference_cells(row.agreement.get(name)),
        ]
        for row in rows
        for name, times in row.milliseconds_per_image.items()
    ]
    columns = ("polygons", "images", "stride", "by", "ms: median (min - max)", "faster", "shrink map", "thresh map")
    title = f"Target maps at {size[0]}x{size[1]}: time per image, and differences from the reference"
    return Table(title, columns, cells)


def _difference_cells(agreement: Agreement | None) -> tuple[str, str]:
    if agreement is None:
        return "", ""
    shrink_note = " TOO FAR" if agreement.shrink_map_share > MAX_SHRINK_SHARE else ""
    thresh_note = " TOO FAR" if agreement.thresh_map_error > MAX_THRESH_ERROR else ""
    return f"{agreement.shrink_map_share:.4%}{shrink_note}", f"{agreement.thresh_map_error:.1e}{thresh_note}"
