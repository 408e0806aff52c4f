"""One split to prepare: its audited annotations and the places its files go to."""

import logging
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ocr.config import PrepareConfig
from ocr.datasets.audit_report import AuditReport, BadDataError
from ocr.datasets.formats.writers import LAYOUTS
from ocr.datasets.manifest import Manifest
from ocr.datasets.schemas import DatasetConfig
from ocr.errors import InputError
from ocr.file_names import shown, with_ending
from ocr.preparation.output import paths_of
from ocr.splits import audited_files

log = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")
SPLITS_WITH_MAPS = ("val", "test")


@dataclass(frozen=True)
class SplitJob:
    """One split to prepare."""

    name: str
    source: dict[str, str]
    """image_path and annotation_path."""
    manifest: Manifest
    audit: AuditReport
    image_dir: Path | None
    """Folder of the prepared images; None: images and annotations stay where they are."""
    annotation_path: Path | None
    maps_dir: Path | None
    """Folder of the target maps; None: no maps are written."""
    shards_dir: Path
    """Folder of the shards, of this run or an earlier one."""


def chosen_splits(config: PrepareConfig) -> list[str]:
    """Returns `config.splits`, or all splits whose image folder exists.

    Raises:
        InputError: there is no image folder.
    """
    if config.splits is not None:
        return list(config.splits)
    configured = [name for name in SPLITS if config.datasets.has_split(name)]
    names = [name for name in configured if _exists(config.datasets.split(name))]
    if not names:
        raise InputError(
            "there is no split to prepare: found none of the folders "
            f"{[config.datasets.split(name).places for name in configured]}; choose a data set, for example data=upstage "
            "dataset_base_path=FOLDER"
        )
    return names


def _exists(config: DatasetConfig) -> bool:
    return any(Path(one.image_path).is_dir() for one in config.each_set().values())


def audited_jobs(
    config: PrepareConfig, sources: dict[str, DatasetConfig], output: Path, is_in_place: bool, run_dir: Path
) -> list[SplitJob]:
    """Audits all splits and returns a job for each. Writes audit_<split>.json to `run_dir`.

    Args:
        config: settings of the run.
        sources: configuration of each split.
        output: the output folder.
        is_in_place: whether it is the folder of the data set itself.
        run_dir: folder for the reports.

    Raises:
        FileNotFoundError: a split does not exist.
        InputError: a split is not fit for use; the message covers all splits.
    """
    jobs, problems = [], []
    for name, source in sources.items():
        if source.sets:
            raise InputError(
                f"datasets.{name}_dataset.config: found {len(source.sets)} data sets; prepare one at a time, each in its own folder"
            )
        if source.annotation_path is None:
            raise InputError(f"datasets.{name}_dataset.config.annotation_path is not set; annotations are needed")
        if config.on_bad_sample is not None:
            source = source.model_copy(update={"on_bad_sample": config.on_bad_sample})
        try:
            manifest, reports = audited_files(
                source, config, config.pipeline.max_megapixels, run_dir / f"audit_{name}.json"
            )
        except BadDataError as error:
            problems.append(f"{name}: {error}")
        else:
            log.info("%s: %s", name, reports[""].summary())
            jobs.append(_job(name, source, manifest, reports[""], config, output, is_in_place))
    if problems:
        raise InputError("\n".join(problems))
    return jobs


def _job(
    name: str,
    source: DatasetConfig,
    manifest: Manifest,
    audit: AuditReport,
    config: PrepareConfig,
    output: Path,
    is_in_place: bool,
) -> SplitJob:
    image_dir = annotation_path = None
    images = source  # the maps are written beside these images
    if config.to != "upstage":
        layout = LAYOUTS[config.to]
        image_dir, annotation_path = (
            output / place.format(split=name) for place in (layout.images, layout.annotations)
        )
    elif not is_in_place:
        image_dir = output / ("images_val_canonical" if name == "val" and config.canonical else f"images/{name}")
        annotation_path = output / "jsons" / f"{name}.json"
        images = DatasetConfig(image_path=str(image_dir))
    if image_dir is not None:
        manifest = _with_names_of_copies(manifest)
    wants_maps = config.maps and name in SPLITS_WITH_MAPS and config.to == "upstage"
    return SplitJob(
        name=name,
        source=paths_of(source),
        manifest=manifest,
        audit=audit,
        image_dir=image_dir,
        annotation_path=annotation_path,
        maps_dir=images.maps_dir.resolve() if wants_maps else None,
        shards_dir=output / "shards" / name,
    )


def _with_names_of_copies(manifest: Manifest) -> Manifest:
    """Returns the manifest with names for the prepared images: a converted image is a PNG, so that a.tif becomes a.tif.png.

    Raises:
        InputError: another image has this name already.
    """
    due = [] if manifest.is_converted is None else np.flatnonzero(manifest.is_converted).tolist()
    names = list(manifest.filenames)
    for index in due:
        if not names[index].lower().endswith(".png"):
            names[index] = with_ending(names[index], ".png")
    if len(set(names)) < len(names):
        repeated = next(name for name, count in Counter(names).items() if count > 1)
        raise InputError(
            f"{shown(repeated)}: found two images that would be written to this name, since TIFF, BMP, WebP, GIF and CMYK images "
            "are written as PNG; rename one of them"
        )
    return replace(manifest, filenames=tuple(names)) if due else manifest
