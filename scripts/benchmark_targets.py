"""Measures the time per image of each implementation of the ground-truth maps, and its differences from the exact reference.

    uv run scripts/benchmark_targets.py --annotations DATA/jsons/val.json
    uv run scripts/benchmark_targets.py --annotations RECEIPTS.json SCENES.json --check --json results.json

reference: pyclipper and NumPy; compiled: numba, one thread; triton: the kernel, on the GPU where there is one. TRITON_INTERPRET=1
runs the kernel in Triton's interpreter on the CPU, which compares it but does not time it. --check takes 50 images of each
annotation file, 1,000 random polygons, 1,500 boxes in an image and a polygon of 500 vertices. The exit status is 1 if an
implementation exceeds the limits.
"""

import argparse
import json
import sys
from pathlib import Path


def main() -> int:
    arguments = _parse_arguments()
    from rich.console import Console  # --help needs none of this

    from benchmarks.targets import benchmark_targets, targets_document, targets_table

    size = (arguments.size, arguments.size)
    num_images, num_random = (50, 1000) if arguments.check else (arguments.images, arguments.random)
    rows = benchmark_targets(arguments.annotations, num_images, num_random, size, arguments.rounds, arguments.check)
    targets_table(rows, size).print(Console(width=120))
    if arguments.json:
        arguments.json.write_text(json.dumps(targets_document(rows, size), indent=2) + "\n")
    return 0 if all(row.agrees for row in rows) else 1


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--annotations", type=Path, nargs="*", default=[], help="Upstage JSON files")
    parser.add_argument("--images", type=int, default=5, help="images taken of each file (default %(default)s)")
    parser.add_argument("--random", type=int, default=100, help="random polygons, 20 per image (default %(default)s)")
    parser.add_argument("--size", type=int, default=640, help="side of the square input (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds after a warm-up (default %(default)s)")
    parser.add_argument("--check", action="store_true", help="the long list above")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write times, differences and machine to this file")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
