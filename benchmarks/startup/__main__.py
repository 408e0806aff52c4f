"""Measures starts on drawn data sets: the first, which audits everything, and the second, which finds it audited.

    uv run python -m benchmarks.startup --sizes 1000 10000 --folder FOLDER
    uv run python -m benchmarks.startup --sizes 1000000 --ranks 1 2 --json FILE --markdown FILE
    uv run python -m benchmarks.startup --sizes 1000 10000 --code OTHER_CHECKOUT

Each start is a process of its own; with two ranks, two processes start at once. A million images take 6 GB in FOLDER.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks.environment import environment
from benchmarks.report import Table
from benchmarks.startup.drawing import NUM_WORDS, draw

_ROOT = Path(__file__).parents[2]
_COLUMNS = ("images", "ranks", "start", "stage", "seconds", "CPU seconds", "resident MB", "own MB", "peak MB")


def main() -> None:
    arguments = _parse_arguments()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        for size in arguments.sizes:
            folder = Path(arguments.folder or temporary, str(size))
            draw(folder, size)
            for num_ranks in arguments.ranks:
                memo = Path(temporary, "memo")
                shutil.rmtree(memo, ignore_errors=True)
                for start in ("first", "second"):
                    for row in _start(folder, memo, num_ranks, arguments.code):
                        rows.append({"images": size, "ranks": num_ranks, "start": start, **row})
                        print(json.dumps(rows[-1]), file=sys.stderr)
                    _write(rows, arguments)  # a million images take long: an interrupted command keeps what it has
    _table(rows).print(Console())


def _write(rows: list[dict[str, Any]], arguments: argparse.Namespace) -> None:
    machine = environment(torch.device("cpu"), "uv run python -m benchmarks.startup")
    document = {"machine": machine, "words_per_image": NUM_WORDS, "rows": rows}
    if arguments.json:
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")
    if arguments.markdown:
        arguments.markdown.write_text("\n".join(_table(rows).markdown()) + "\n")


def _start(folder: Path, memo: Path, num_ranks: int, code: Path) -> list[dict[str, Any]]:
    """Returns the stages of a start; each stage is that of its slowest rank."""
    command = [sys.executable, str(_ROOT / "benchmarks/startup/one_start.py"), str(folder), str(memo)]
    variables = os.environ | {"PYTHONPATH": str(code)}
    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=variables, cwd=code) for _ in range(num_ranks)
    ]
    outputs = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise SystemExit("a start failed; its error stands above")
    ranks = [json.loads(output.splitlines()[-1])["stages"] for output in outputs]
    return [max(stages, key=lambda stage: stage["seconds"]) for stages in zip(*ranks, strict=True)]


def _cells(row: dict[str, Any]) -> list[str]:
    numbers = (row["seconds"], row["cpu_seconds"])
    sizes = (row["resident_mb"], row["anonymous_mb"], row["peak_mb"])
    return [
        f"{row['images']:,}",
        str(row["ranks"]),
        row["start"],
        row["stage"],
        *(f"{number:.2f}" for number in numbers),
        *(f"{size:,.0f}" for size in sizes),
    ]


def _table(rows: list[dict[str, Any]]) -> Table:
    return Table("Until the first batch", _COLUMNS, [_cells(row) for row in rows])


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="benchmarks.startup", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000], help="numbers of images")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1], help="numbers of processes that start at once")
    parser.add_argument("--folder", type=Path, help="folder that keeps the drawn data sets; default: a temporary one")
    parser.add_argument("--code", type=Path, default=_ROOT, help="checkout whose code is measured; default: this one")
    parser.add_argument("--json", type=Path, help="file for all figures")
    parser.add_argument("--markdown", type=Path, help="file for the table")
    return parser.parse_args()


if __name__ == "__main__":
    main()
