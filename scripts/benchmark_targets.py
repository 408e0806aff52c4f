"""Time per image of the ground-truth maps, all ways to make them side by side, and how far they agree.

    uv run scripts/benchmark_targets.py --annotations DATA/jsons/val.json
    uv run scripts/benchmark_targets.py --annotations RECEIPTS.json SCENES.json --check --json results.json

reference: pyclipper and NumPy; compiled: numba, one thread; torch: on the GPU where there is one. --check takes 50
images of each annotation file and 1,000 random polygons. The exit status is 1 where a way leaves the limits.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from ocr.environment import device_name, git_commit, package_versions
from ocr.polygons import PolygonBatch
from ocr.targets import TargetConfig, TargetMaps
from ocr.targets.agreement import Agreement, compare_maps, random_polygons
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

    @property
    def agrees(self) -> bool:
        return all(
            agreement.shrink_map_share <= MAX_SHRINK_SHARE and agreement.thresh_map_error <= MAX_THRESH_ERROR
            for agreement in self.agreement.values()
        )


def main() -> int:
    arguments = _parse_arguments()
    size = (arguments.size, arguments.size)
    num_images, num_random = (50, 1000) if arguments.check else (arguments.images, arguments.random)
    polygon_sets = {"drawn boxes": drawn_boxes(np.random.default_rng(0), 60, size)}
    polygon_sets |= {str(file): read_polygons(file, num_images, size) for file in arguments.annotations}
    polygon_sets["random polygons"] = random_polygons(
        np.random.default_rng(1), num_images=-(-num_random // 20), polygons_per_image=20, size=size
    )
    configs = TargetConfig(map_stride=1), TargetConfig(map_stride=4)
    rows = [
        measure(name, polygons, size, config, arguments.rounds)
        for name, polygons in polygon_sets.items()
        for config in configs
    ]
    Console().print(_table(rows, size))
    if arguments.json:
        results = {
            "device": device_name(_device()),
            "versions": package_versions(),
            "commit": git_commit(),
            "command": sys.argv,
            "size": size,
            "rows": [asdict(row) for row in rows],
        }
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")
    return 0 if all(row.agrees for row in rows) else 1


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--annotations", type=Path, nargs="*", default=[], help="Upstage JSON files")
    parser.add_argument("--images", type=int, default=5, help="images taken of each file (default %(default)s)")
    parser.add_argument("--random", type=int, default=100, help="random polygons, 20 an image (default %(default)s)")
    parser.add_argument("--size", type=int, default=640, help="side of the square input (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds after a warm-up (default %(default)s)")
    parser.add_argument("--check", action="store_true", help="50 images of each file and 1,000 random polygons")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write times, differences and machine to this file")
    return parser.parse_args()


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


def _device() -> torch.device:
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def _ways() -> dict[str, Way]:
    device = _device().type
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


def _table(rows: list[Row], size: tuple[int, int]) -> Table:
    table = Table(title=f"Target maps at {size[0]}x{size[1]}: time per image, and differences from the reference")
    for column in (
        "polygons",
        "images",
        "stride",
        "way",
        "ms: median (min - max)",
        "faster",
        "shrink map",
        "thresh map",
    ):
        table.add_column(column)
    for row in rows:
        for way, times in row.milliseconds_per_image.items():
            speedup = median(row.milliseconds_per_image["reference"]) / median(times)
            table.add_row(
                f"{row.polygons} {row.polygon_set}",
                str(row.images),
                str(row.map_stride),
                way,
                f"{median(times):.2f} ({min(times):.2f} - {max(times):.2f})",
                f"{speedup:.1f}x",
                *_differences(row.agreement.get(way)),
            )
    return table


def _differences(agreement: Agreement | None) -> tuple[str, str]:
    if agreement is None:
        return "", ""
    shrink_note = " TOO FAR" if agreement.shrink_map_share > MAX_SHRINK_SHARE else ""
    thresh_note = " TOO FAR" if agreement.thresh_map_error > MAX_THRESH_ERROR else ""
    return f"{agreement.shrink_map_share:.4%}{shrink_note}", f"{agreement.thresh_map_error:.1e}{thresh_note}"


if __name__ == "__main__":
    sys.exit(main())
