"""Loads the images of a split and chooses some of them."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np

from ocr.config import TrainConfig
from ocr.datasets.audit_report import AuditReport
from ocr.datasets.manifest import Manifest
from ocr.errors import InputError
from ocr.splits import audited_files

log = logging.getLogger(__name__)

MAX_IMAGES = 4096
"""Images of a data set that are sent to the rows; epochs are shorter."""


def load_split(config: TrainConfig, split: str, run_dir: Path) -> tuple[Manifest, AuditReport]:
    """Returns the usable images of a split, and the audit's findings, which are written to `run_dir` too.

    Raises:
        FileNotFoundError: the images or their annotations do not exist.
        InputError: the images are not files of this machine, or none is usable.
    """
    dataset = config.datasets.split(split)
    if dataset.sets:
        raise InputError(
            f"datasets.{split}_dataset.config: found {len(dataset.sets)} data sets; only one can be measured"
        )
    if "://" in dataset.image_path:
        raise InputError(
            f"datasets.{split}_dataset.config.image_path={dataset.image_path}: only local files can be measured; give a local "
            "folder (the cost of reading shards from s3:// shows in a training run with loader=webdataset)"
        )
    manifest, reports = audited_files(dataset, config, config.pipeline.max_megapixels, run_dir / f"audit_{split}.json")
    audit = reports[""]
    log.info("%s: %s", split, audit.summary())
    return manifest, audit


def at_most(manifest: Manifest) -> Manifest:
    """Returns all images, or `MAX_IMAGES` of them spread evenly."""
    return manifest if len(manifest) <= MAX_IMAGES else spread_evenly(manifest, MAX_IMAGES)


def spread_evenly(manifest: Manifest, count: int) -> Manifest:
    """Returns `count` images spread evenly over the manifest; where it has fewer, they repeat under sample ids of their own."""
    if count <= len(manifest):
        places = np.linspace(0, len(manifest) - 1, count).round().astype(int)
    else:
        places = np.resize(np.arange(len(manifest)), count)
    return replace(
        manifest,
        image_paths=tuple(manifest.image_paths[place] for place in places),
        filenames=tuple(manifest.filenames[place] for place in places),
        sample_ids=np.arange(count),
        stored_sizes=manifest.stored_sizes[places],
        orientations=manifest.orientations[places],
        polygons=manifest.polygons.select(places),
        num_listed=count,
    )
