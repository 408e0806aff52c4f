"""Measures recipes of training and of evaluation, one change at a time against one baseline. Rows add up over invocations.

    uv run python -m benchmarks.recipes --data FOLDER --weights FOLDER --json FILE --markdown FILE
    uv run python -m benchmarks.recipes --groups evaluation --checkpoint FILE --data FOLDER --json FILE --markdown FILE
    uv run python -m benchmarks.recipes --groups fine_tuning continuing --start FILE --data FOLDER --weights FOLDER --json FILE
        --markdown FILE

--data holds sroie_lines, sroie_more, icdar15_words and icdar15_more, as configs/data/sroie_and_icdar15.yaml lists them. --weights
holds mobilenetv2_100.safetensors and efficientnet_lite0.safetensors of timm. A row that is in the JSON file with the same settings
and the same content of its files is not measured again.
"""

import argparse
import logging
import sys
import time
from pathlib import Path

import torch

from benchmarks.environment import environment
from benchmarks.recipes.inputs import Places
from benchmarks.recipes.recipes import GROUPS
from benchmarks.recipes.report import recipes_report
from benchmarks.recipes.results import Job, Results, is_measured, planned
from benchmarks.recipes.running import run_recipe
from ocr.environment import git_commit
from ocr.errors import InputError

log = logging.getLogger("benchmarks.recipes")


def main() -> None:
    """Runs the command. Both files are written after each row, so that an interrupted run leaves what it has measured.

    Raises:
        SystemExit: with status 1 if a row could not be measured; the others are.
    """
    logging.basicConfig(level=logging.INFO, format="[%(asctime)s] %(message)s", stream=sys.stdout)
    arguments = _parse_arguments()
    results = Results.load(arguments.json, environment(torch.device("cpu"), "uv run python -m benchmarks.recipes"))
    groups = [group for group in GROUPS if group.name in arguments.groups]
    places = Places(arguments.data, arguments.weights, arguments.work, arguments.checkpoint, arguments.start)
    known = [recipe.name for group in GROUPS for recipe in (group.baseline, *group.recipes)]
    if unknown := [name for name in arguments.only if name not in known]:
        raise SystemExit(f"--only {unknown[0]}: no such recipe; there are {', '.join(known)}")
    stop_at = time.monotonic() + 60 * arguments.minutes
    num_failed = 0
    for job in planned(groups, arguments.seeds, results):
        if arguments.only and job.recipe.name not in (job.group.baseline.name, *arguments.only):
            continue
        if time.monotonic() > stop_at:
            log.info("--minutes=%g have passed; the next invocation continues", arguments.minutes)
            break
        num_failed += not _measure(job, places, results)
        _save(arguments, results)
    _save(arguments, results)
    recipes_report(results, arguments.note).print()
    if num_failed:
        raise SystemExit(f"{num_failed} rows could not be measured; the errors above say why")


def _measure(job: Job, places: Places, results: Results) -> bool:
    """Adds the row of a job to the results, unless it is there with the same settings.

    Returns:
        False, after logging why, if a file is missing or the run failed.
    """
    overrides = job.group.overrides_of(job.recipe)
    seed = [f"seed={job.seed}"] if job.group.has_seeds else []
    try:
        settings = {"overrides": overrides, "files": places.identities(overrides)}
        if is_measured(results, job, settings):
            return True
        commit = git_commit()  # before the run: another one may be checked out meanwhile
        log.info("%s: %s, seed %d", job.group.name, job.recipe.name, job.seed)
        places.make(overrides)
        command = [*places.filled(overrides), *seed]
        figures = run_recipe(job.group.script, command, places.work / "run", job.group.images)
    except (InputError, FileNotFoundError) as error:
        log.error("%s, %s: %s", job.group.name, job.recipe.name, error)
        return False
    key = {"group": job.group.name, "recipe": job.recipe.name, "seed": job.seed}
    results.put(key | {"settings": settings, "commit": commit} | figures)
    log.info(
        "  %s; %.0f s, %.0f of the processor", _told(figures["scores"]), figures["wall_seconds"], figures["cpu_seconds"]
    )
    return True


def _told(scores: dict[str, dict[str, float]]) -> str:
    return ", ".join(f"{name} {own['hmean']:.4f} / {own['hmean_iou0.7']:.4f}" for name, own in scores.items())


def _save(arguments: argparse.Namespace, results: Results) -> None:
    results.save(arguments.json)
    if arguments.markdown:
        arguments.markdown.write_text(recipes_report(results, arguments.note).markdown())


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.recipes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [group.name for group in GROUPS]
    parser.add_argument("--groups", nargs="+", choices=names, default=names, help="groups to measure (default: all)")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="recipes to measure beside the baselines")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3], help="seeds of a recipe (default 1 2 3)")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no row after this time")
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--weights", type=Path, help="folder of ImageNet weights")
    parser.add_argument("--checkpoint", type=Path, help="checkpoint for the evaluation recipes")
    parser.add_argument("--start", type=Path, help="weights that fine-tuning begins with")
    parser.add_argument(
        "--work", type=Path, default=Path("outputs/recipes"), help="folder for runs (default %(default)s)"
    )
    parser.add_argument("--note", nargs="+", default=[], help="lines for the head of the report")
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="all rows; read first, if it exists")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the report to this file")
    return parser.parse_args()


if __name__ == "__main__":
    main()
