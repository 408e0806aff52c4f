"""What a validation epoch costs beside its bare forward pass, and that no cache setting changes its result.

    uv run scripts/benchmark_validation.py speed --json FILE
    uv run scripts/benchmark_validation.py settings --checkpoint FILE --data FOLDER --json FILE

speed trains on one batch an epoch and validates 404 drawn images; after each validation the bare forward pass over the same tensors
is timed. settings evaluates a checkpoint on FOLDER (laid out for data=upstage) with each cache setting, twice: the second pass is
served from the cache. Further arguments of speed are overrides, as for scripts/train.py.
"""

import argparse
import json
import sys
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.validation import SCORES, compare_settings, measure_speed
from ocr.command_line import prepare_hydra
from ocr.device import resolve_device
from ocr.environment import device_name, git_commit, package_versions


def main() -> None:
    arguments, overrides = _parse_arguments()
    prepare_hydra()
    results = (
        measure_speed(overrides)
        if arguments.what == "speed"
        else compare_settings(arguments.checkpoint, arguments.data, arguments.size)
    )
    results |= {
        "command": sys.argv,
        "device": device_name(resolve_device("auto")),
        "versions": package_versions(),
        "commit": git_commit(),
    }
    Console(width=120).print(_speed_table(results) if arguments.what == "speed" else _settings_table(results))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


def _parse_arguments() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "settings"))
    parser.add_argument("--checkpoint", type=Path, help="settings: a .ckpt file of a run")
    parser.add_argument("--data", type=Path, help="settings: folder with images/val and jsons/val.json")
    parser.add_argument("--size", type=int, help="settings: longest side; default: as the checkpoint was trained")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures and the machine to this file")
    return parser.parse_known_args()


def _speed_table(results: dict[str, Any]) -> Table:
    table = Table(title=f"Validation epochs on {results['device']}: seconds")
    columns = {
        "data wait": "val_data_wait_seconds",
        "forward": "val_forward_seconds",
        "levels": "val_device_postprocess_seconds",
        "polygons": "val_postprocess_seconds",
        "metric": "val_metric_seconds",
        "blocked": "val_blocked_seconds",
        "total": "val_seconds",
    }
    for column in ("epoch", *columns, "bare", "total / bare", "RAM"):
        table.add_column(column, justify="right")
    epochs, bare = results["epochs"], results["bare_forward_seconds"]
    for epoch, alone, memory in zip(epochs, bare, results["resident_set_bytes"], strict=True):
        figures = [f"{epoch[name]:.3f}" for name in columns.values()]
        table.add_row(
            str(epoch["epoch"]),
            *figures,
            f"{alone:.3f}",
            f"{epoch['val_seconds'] / alone:.3f}",
            f"{memory / 1e6:,.0f} MB",
        )
    later = epochs[1:]
    if later:
        waiting = max(epoch["val_data_wait_seconds"] for epoch in later) / epochs[0]["val_data_wait_seconds"]
        ratio = median(epoch["val_seconds"] / alone for epoch, alone in zip(later, bare[1:], strict=True))
        table.caption = (
            f"from epoch 1: data wait at most {waiting:.2%} of epoch 0's; total / bare forward {ratio:.3f} (median)"
        )
    return table


def _settings_table(results: dict[str, Any]) -> Table:
    table = Table(
        title=f"{results['images']} images at {results['size']}, {results['precision']}, {results['device']}",
        caption="second pass, from the cache; the first pass gave the same scores unless marked *",
    )
    for column in ("cache", *SCORES, "hits", "data wait s", "forward s", "total s"):
        table.add_column(column, justify="left" if column == "cache" else "right")
    for name, (first, second) in results["rows"].items():
        mark = "" if all(first[score] == second[score] for score in SCORES) else " *"
        figures = [f"{second[score]:.6f}" for score in SCORES]
        if "hits" in second:
            figures.append(f"{second['hits']}/{second['hits'] + second['misses']}")
            figures += [f"{second[key]:.3f}" for key in ("data_wait_seconds", "forward_seconds", "seconds")]
        table.add_row(name + mark, *figures)
    return table


if __name__ == "__main__":
    main()
