"""What every benchmark starts with: the checked images of a split, the machine in words, files that can be written."""

import logging
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.loaders.setting import evenly
from ocr.config import TrainConfig
from ocr.datasets.audit import AuditReport, load_manifest
from ocr.datasets.manifest import Manifest
from ocr.environment import device_name, git_commit, package_versions
from ocr.errors import InputError
from ocr.machine import total_ram

log = logging.getLogger(__name__)

BENCH_PACKAGES = ("albumentations", "spdl", "torchvision", "webdataset")
Figures = TypeVar("Figures")

MOST_IMAGES = 4096
"""Of a data set that are handed to the rows; epochs are shorter."""


def at_most(manifest: Manifest) -> Manifest:
    """The images, or `MOST_IMAGES` of them, spread evenly."""
    return manifest if len(manifest) <= MOST_IMAGES else evenly(manifest, MOST_IMAGES)


def write_or_explain(write: Callable[[Figures, Path], None], results: Figures, run_dir: Path) -> None:
    """`write(results, run_dir)`.

    Raises:
        InputError: the folder cannot be written.
    """
    try:
        write(results, run_dir)
    except OSError as error:
        raise InputError(
            f"{error.filename or run_dir}: cannot be written: {error.strerror}; hydra.run.dir=FOLDER names another folder"
        ) from error


def progress_bars() -> Progress:
    """On the terminal, if there is one."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
    )


def load_split(config: TrainConfig, split: str, run_dir: Path) -> tuple[Manifest, AuditReport]:
    """The usable images of a split, and what was found wrong with the others.

    Raises:
        InputError: they are not files of this machine, or none is usable.
    """
    dataset = config.datasets.split(split)
    if "://" in dataset.image_path:
        raise InputError(
            f"datasets.{split}_dataset.config.image_path={dataset.image_path}: only files of this machine are measured; "
            "give a local folder (what reading shards from s3:// costs, loader=webdataset shows in its run)"
        )
    manifest, audit = load_manifest(
        dataset, max_megapixels=config.pipeline.max_megapixels, report_path=run_dir / f"audit_{split}.json"
    )
    log.info("%s: %s", split, audit.summary().plain.rstrip())
    if not len(manifest):
        raise InputError(f"{dataset.image_path}: no usable image; expected files ending in {dataset.image_extensions}")
    return manifest, audit


def environment(device: torch.device, script: str) -> dict[str, Any]:
    """The machine, the versions and the command, for the files."""
    return {
        "command": [script, *sys.argv[1:]],
        "device": device_name(device),
        "device_type": device.type,
        "driver": _driver() if device.type == "cuda" else None,
        "transfer_ms_per_megabyte": _transfer_ms_per_megabyte(device) if device.type == "cuda" else None,
        "cores": num_cores(),
        "ram_bytes": total_ram(),
        "gpu_bytes": torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None,
        "versions": package_versions(*BENCH_PACKAGES),
        "commit": git_commit(),
        "started": time.strftime("%Y-%m-%d %H:%M:%S %z"),
    }


def _driver() -> str | None:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _transfer_ms_per_megabyte(device: torch.device) -> float:
    """From pinned RAM to the GPU."""
    pinned = torch.empty(64_000_000, dtype=torch.uint8, pin_memory=True)
    for _ in range(2):  # the first one warms up
        torch.cuda.synchronize(device)
        started = time.perf_counter()
        pinned.to(device)
        torch.cuda.synchronize(device)
    return 1000 * (time.perf_counter() - started) / 64


def num_cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0))


def environment_lines(measured: Mapping[str, Any], what: str) -> list[str]:
    """What a report's head says of `environment`, and in between of `what` was measured, as a list in Markdown."""
    versions = ", ".join(f"{name} {version}" for name, version in measured["versions"].items() if version)
    return [
        f"- machine: {measured['device']}, {measured['cores']} cores, {measured['ram_bytes'] / 1e9:.0f} GB RAM",
        f"- started: {measured['started']}, commit {measured['commit']}",
        f"- command: `{shlex.join(measured['command'])}`",
        f"- {what}",
        f"- versions: {versions}",
    ]
