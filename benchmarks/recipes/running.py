"""Runs one recipe as the command that a user types, and reads its scores and times."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.detectors.processes import ONE_THREAD
from ocr.errors import InputError

_ROOT = Path(__file__).parents[2]
KEPT_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "17179869184",
    "MALLOC_TOP_PAD_": "67108864",
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}
"""glibc keeps freed memory and uses large pages: a CPU training spends less time in the kernel."""


def run_recipe(script: str, overrides: Sequence[str], folder: Path, images: str) -> dict[str, Any]:
    """Runs scripts/train.py or scripts/evaluate.py. Returns scores, curve and times.

    Args:
        script: train or evaluate.
        overrides: all but the run's folder.
        folder: folder of the run, removed before and after; its log stays beside it after an error.
        images: name of the scores if the validation has one set.

    Raises:
        InputError: the command failed.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(_ROOT / "scripts" / f"{script}.py"), *overrides, f"hydra.run.dir={folder}"]
    log_path = folder.with_suffix(".log")
    started = time.perf_counter()
    with log_path.open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | ONE_THREAD | KEPT_MEMORY)
        _, status, usage = os.wait4(process.pid, 0)  # unlike resource.getrusage, the time of this child alone
    process.returncode = os.waitstatus_to_exitcode(status)
    wall_seconds = time.perf_counter() - started
    if process.returncode:
        lines = log_path.read_text(errors="replace").strip().splitlines()
        raise InputError(f"{log_path}: the command ended with {process.returncode}: {' '.join(lines[-1:])}")
    cpu_seconds = usage.ru_utime + usage.ru_stime
    times = {"wall_seconds": round(wall_seconds, 1), "cpu_seconds": round(cpu_seconds, 1)}
    if script == "train":
        num_pages = len(json.loads((folder / "predictions.json").read_bytes())["images"])
        summary = json.loads((folder / "summary.json").read_bytes())
        figures = training_figures(summary, cpu_seconds / wall_seconds, num_pages, images)
    else:
        figures = evaluation_figures(json.loads((folder / "metrics.json").read_bytes()), images)
    shutil.rmtree(folder)
    log_path.unlink()
    return figures | times


def training_figures(summary: Mapping[str, Any], core_share: float, num_pages: int, images: str) -> dict[str, Any]:
    """Returns the last scores, the curve, and the processor time of an image and of a page.

    Args:
        summary: content of summary.json.
        core_share: processor time of the command by its wall time, with which wall times become processor times.
        num_pages: images of a validation.
        images: name of the scores if the validation has one set.
    """
    epochs = summary["epochs"]
    num_images, seconds, validation_seconds = 0.0, 0.0, 0.0
    curve = []
    for epoch in epochs:
        seconds += epoch["train_seconds"]
        num_images += epoch["train_seconds"] * epoch["train_images_per_second"]
        if "hmean" in epoch:
            validation_seconds += epoch["val_seconds"]
            curve.append(
                {"epoch": epoch["epoch"] + 1, "images": round(num_images), "scores": _scores_of(epoch, images)}
            )
    return {
        "scores": curve[-1]["scores"],
        "curve": curve,
        "images": round(num_images),
        "image_cpu_ms": round(1000 * seconds * core_share / num_images, 1),
        "page_cpu_ms": round(1000 * validation_seconds * core_share / len(curve) / num_pages, 1),
    }


def evaluation_figures(metrics: Mapping[str, Any], images: str) -> dict[str, Any]:
    """Returns the scores in metrics.json; those of a single set under the name in `images`."""
    return {"scores": _scores_of(metrics, images)}


def _scores_of(scores: Mapping[str, Any], images: str) -> dict[str, dict[str, float]]:
    """Returns hmean at IoU 0.5 and 0.7 by data set; those of a single set under the name in `images`."""
    sets = scores.get("sets") or {images: scores}
    return {name: {key: round(own[key], 5) for key in ("hmean", "hmean_iou0.7")} for name, own in sets.items()}
