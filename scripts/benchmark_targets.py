"""Time per image of the ground-truth maps, all ways to make them side by side, and how far they agree.

    uv run scripts/benchmark_targets.py --annotations DATA/jsons/val.json
    uv run scripts/benchmark_targets.py --annotations RECEIPTS.json SCENES.json --check --json results.json

reference: pyclipper and NumPy; compiled: numba, one thread; torch: on the GPU where there is one. --check takes 50
images of each annotation file and 1,000 random polygons. The exit status is 1 where a way leaves the limits.
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from statistics import median

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.targets import MAX_SHRINK_SHARE, MAX_THRESH_ERROR, Row, drawn_boxes, measure, read_polygons
from ocr.device import resolve_device
from ocr.environment import device_name, git_commit, package_versions
from ocr.targets import TargetConfig
from ocr.targets.agreement import Agreement, random_polygons


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
            "device": device_name(resolve_device("auto")),
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
            table.add_row(
                f"{row.polygons} {row.polygon_set}",
                str(row.images),
                str(row.map_stride),
                way,
                f"{median(times):.2f} ({min(times):.2f} - {max(times):.2f})",
                f"{row.times_faster(way):.1f}x",
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
