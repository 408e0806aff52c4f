"""What every benchmark starts with: the checked images of a split, the machine in words, files that can be written."""

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.loaders.setting import evenly
from ocr.config import TrainConfig
from ocr.datasets.audit import load_manifest
from ocr.datasets.audit_report import AuditReport
from ocr.datasets.manifest import Manifest
from ocr.errors import InputError

log = logging.getLogger(__name__)

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
