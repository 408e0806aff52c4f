"""Compares a validation epoch with its bare forward pass, and shows that no cache setting changes its result.

    uv run scripts/benchmark_validation.py speed --json FILE
    uv run scripts/benchmark_validation.py settings --checkpoint FILE --data FOLDER --json FILE

speed trains one batch per epoch and validates 404 drawn images; after each validation it times the bare forward pass over the same
tensors. Its further arguments are overrides, as for scripts/train.py. settings evaluates a checkpoint on FOLDER (in the layout of
data=upstage) with each cache setting, twice: the second pass is served from the cache.
"""

import argparse
import json
from pathlib import Path


def main() -> None:
    arguments, overrides = _parse_arguments()
    from rich.console import Console  # --help needs none of this

    from benchmarks.environment import provenance
    from benchmarks.validation.cache_settings import cache_settings_table, compare_cache_settings
    from benchmarks.validation.speed import speed_table, time_validation

    if arguments.what == "speed":
        results = time_validation(overrides) | provenance()
        table = speed_table(results)
    else:
        results = compare_cache_settings(arguments.checkpoint, arguments.data, arguments.size) | provenance()
        table = cache_settings_table(results)
    table.print(Console(width=120))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


def _parse_arguments() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "settings"), help="the measurement, as described above")
    parser.add_argument("--checkpoint", type=Path, help="settings: a .ckpt file of a run")
    parser.add_argument("--data", type=Path, help="settings: folder with images/val and jsons/val.json")
    parser.add_argument("--size", type=int, help="settings: longest side (default: as the checkpoint was trained)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures and the machine to this file")
    arguments, overrides = parser.parse_known_args()
    if arguments.what == "settings" and (overrides or not arguments.checkpoint or not arguments.data):
        parser.error(f"settings needs --checkpoint and one --data, and takes no overrides (found {overrides})")
    return arguments, overrides


if __name__ == "__main__":
    main()
