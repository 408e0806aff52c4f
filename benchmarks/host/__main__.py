"""Measures the host's CPU time by part, beside its limits.

    uv run python -m benchmarks.host
    uv run python -m benchmarks.host --receipts FOLDER --scenes FOLDER --json FILE --markdown FILE
    uv run python -m benchmarks.host --only validation

planning: a batch's plan, polygons, outlines and packing. launching: the thread that launches kernels, in the training loader.
step: Lightning and hooks. validation: post-processing and metric. Receipts are in FOLDER/images/train and FOLDER/jsons/train.json,
scenes in FOLDER/images/val and FOLDER/jsons/val.json; without a folder, both are drawn. No GPU is used. The exit status is 1 if a
limit is missed.
"""

import argparse
import json
import logging
import sys
from pathlib import Path

import torch

from benchmarks.environment import environment
from benchmarks.host.launching import time_launching
from benchmarks.host.planning import time_planning
from benchmarks.host.report import HostResults, limits, report
from benchmarks.host.step import time_step
from benchmarks.host.validation import SIZES, time_validation_host
from benchmarks.host.workloads import build_workloads
from ocr.command_line.configuration import CHATTY_LOGGERS

SECTIONS = ("planning", "launching", "step", "validation")


def main() -> int:
    arguments = _parse_arguments()
    torch.set_num_threads(1)
    for name in CHATTY_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    results = _measure(arguments)
    before = json.loads(arguments.before.read_text()) if arguments.before else None
    host_report = report(results, before)
    host_report.print()
    if arguments.json:
        arguments.json.write_text(json.dumps(results.document(), indent=1) + "\n")
    if arguments.markdown:
        arguments.markdown.write_text(host_report.markdown())
    return 0 if all(limit.holds for limit in limits(results)) else 1


def _measure(arguments: argparse.Namespace) -> HostResults:
    batch_size, repeats = arguments.batch_size, arguments.repeats
    workloads = build_workloads(arguments.receipts, arguments.scenes)
    receipts, scenes = workloads[0], workloads[-1]
    results = HostResults(environment(torch.device("cpu"), "uv run python -m benchmarks.host"), batch_size)
    if "planning" in arguments.only:
        for workload in workloads:
            results.planning += time_planning(workload, workload.fitting(arguments.sizes), batch_size, repeats)
    if "launching" in arguments.only:
        for workload in workloads:
            results.launching += time_launching(workload, workload.fitting(arguments.sizes), batch_size, repeats)
    if "step" in arguments.only:
        results.step = time_step(receipts, batch_size, repeats)
    if "validation" in arguments.only:
        pairs = [(workload, size) for workload in (receipts, scenes) for size in SIZES]
        results.validation = [time_validation_host(workload, size, repeats) for workload, size in pairs]
    return results


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.host",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", choices=SECTIONS, nargs="+", default=SECTIONS, help="sections to measure")
    parser.add_argument("--receipts", type=Path, metavar="FOLDER", help="annotated receipts")
    parser.add_argument("--scenes", type=Path, metavar="FOLDER", help="annotated street scenes")
    parser.add_argument(
        "--sizes",
        type=int,
        nargs="+",
        default=[160, 16_000, 1_000_000],
        help="images of a split (default %(default)s); a split of over 60 million polygons is left out",
    )
    parser.add_argument("--batch-size", type=int, default=16, help="images of a batch (default %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="repeats after a warm-up (default %(default)s)")
    parser.add_argument(
        "--before", type=Path, metavar="FILE", help="JSON file of an earlier run, shown beside the limits"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures and the machine to this file")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the report to this file")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
