"""Builds the checked data set of a split from the configuration of a run."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ocr.config import NOT_SET, DataSection, TrainConfig
from ocr.datasets.audit import load_named_images
from ocr.datasets.audit_report import AuditReport
from ocr.datasets.base import ValidatedOCRDataset, refuse_caches_of_random_samples
from ocr.datasets.data_checks import CheckSettings, DataCheck, advice_text, check_data, check_splits
from ocr.datasets.layout import format_in
from ocr.datasets.manifest import Manifest
from ocr.datasets.plan import SamplePlanner
from ocr.datasets.schemas import DatasetConfig
from ocr.datasets.sets import load_split
from ocr.datasets.shards.images import load_shards
from ocr.datasets.shards.index import INDEX_NAME
from ocr.errors import InputError
from ocr.placement import placement
from ocr.synthetic.data_set import draw_data_set

log = logging.getLogger(__name__)


def draw_if_synthetic(config: DataSection) -> None:
    """Draws the synthetic data set into dataset_base_path, with data=synthetic and unless it exists already."""
    if config.draw_synthetic:
        draw_data_set(config.synthetic, Path(config.dataset_base_path))


def build_dataset(
    split: DatasetConfig,
    config: TrainConfig,
    *,
    training: bool,
    report_path: Path | None = None,
    names: Sequence[str] | None = None,
    before_training: bool = True,
) -> ValidatedOCRDataset:
    """Returns the audited data set of one split: loose files or, with loader=webdataset, shards.

    Args:
        split: location and settings of the split.
        config: configuration of the run, for its loader, pipeline, targets and seed.
        training: augment at random; otherwise letterbox.
        report_path: JSON file for the findings of the audit.
        names: files of the split's folder to read without annotations; None: the whole split.
        before_training: the advice is for a training; otherwise for evaluation, prediction or export.

    Raises:
        InputError: the split cannot be used, or its settings contradict the run.
    """
    pipeline = config.pipeline
    if pipeline.scaled_decode and split.keeps_pixels:
        log.info(
            "%s: pipeline.scaled_decode is ignored: this split keeps decoded images, and they are whole",
            split.places,
        )
        pipeline = pipeline.model_copy(update={"scaled_decode": False})
    planner = SamplePlanner(
        pipeline, training=training, seed=config.seed, shuffle_block=config.dataloader.shuffle_block
    )
    refuse_caches_of_random_samples(split, planner)
    _warn_of_ignored_settings(split, config, training)
    if names is None:
        manifest, reports = audited_split(split, config, report_path)
    else:
        manifest, report = load_named_images(split, names, max_megapixels=pipeline.max_megapixels)
        reports = {"": report}
    for name, report in reports.items():
        log.info("%s%s", f"data set {name}: " if name else "", report.summary())
    if placement().is_first:
        found = checks_of_split(
            manifest, reports.get(""), split, config, training=training, before_training=before_training
        )
        say_check(split.places, found, before_training=before_training)
    return ValidatedOCRDataset(split, planner, config.targets, manifest)


def audited_split(
    split: DatasetConfig, config: TrainConfig, report_path: Path | None
) -> tuple[Manifest, dict[str, AuditReport]]:
    """Returns the checked manifest of a split and the reports of `load_split`, or those of its shards with loader=webdataset.

    Raises:
        FileNotFoundError: its annotations or images do not exist.
        InputError: the split cannot be used.
    """
    if config.loader != "webdataset":
        return audited_files(split, config, config.pipeline.max_megapixels, report_path)
    manifest, report = _load_shards(split, config, report_path)
    return manifest, {"": report}


def audited_files(
    split: DatasetConfig, config: DataSection, max_megapixels: float, report_path: Path | None
) -> tuple[Manifest, dict[str, AuditReport]]:
    """Returns what `load_split` returns, for a split of loose files in the data set of a command.

    Raises:
        FileNotFoundError: its annotations or images do not exist; the message says what to change in the command.
        InputError: the split cannot be used.
    """
    for one in split.each_set().values():
        for key, kind in (("annotation_path", "annotation file or folder"), ("image_path", "image folder")):
            path = getattr(one, key)
            if path is not None and not Path(path).exists():
                raise FileNotFoundError(f"{path}: there is no such {kind}; {layout_advice(one, key, config)}")
    return load_split(split, max_megapixels=max_megapixels, report_path=report_path)


def layout_advice(data_set: DatasetConfig, key: str, config: DataSection) -> str:
    """Returns what to change where images or annotations of a data set do not exist.

    Args:
        key: the key of the path that does not exist, image_path or annotation_path.
        config: configuration of the command, for dataset_base_path.
    """
    root = Path(config.dataset_base_path)
    if config.dataset_base_path == NOT_SET or root.absolute() not in Path(getattr(data_set, key)).absolute().parents:
        return f"check {key}, and dataset_base_path if data= names several data sets"
    if not root.is_dir():
        return f"the folder {root} does not exist; check dataset_base_path"
    advice = []
    has_images = Path(data_set.image_path).is_dir()
    if has_images:
        advice.append(f"check {key}")
    found = format_in(root)
    if found is not None and found.name != data_set.annotation_format:
        advice.append(f"{root} looks like {found.title}: data={found.name}")
    elif found is not None and not has_images:
        advice.append(f"{root} looks like {found.title} with other names of folders: data=auto looks for them")
    return "; ".join(advice) or "check dataset_base_path, or choose the layout of the data set with data="


def checks_of_split(
    manifest: Manifest,
    report: AuditReport | None,
    split: DatasetConfig,
    config: TrainConfig,
    *,
    training: bool,
    before_training: bool = True,
) -> DataCheck:
    """Returns how the data of a split suit the settings of the run; see `build_dataset` for the arguments."""
    annotated = [one.annotation_path is not None for one in split.each_set().values()]
    settings = CheckSettings(
        config.pipeline,
        config.targets.min_side,
        config.postprocess.max_candidates,
        training=training,
        annotated=all(annotated) or config.loader == "webdataset",
        before_training=before_training,
        keeps_pixels=split.keeps_pixels,
    )
    return check_data(manifest, report, settings)


def say_check(place: str, found: DataCheck, *, before_training: bool = True) -> None:
    """Logs what the checks of a split found."""
    log.info("%s:\n%s", place, found.table())
    if found.warnings:
        title = "what to do before training:" if before_training else "what may cost accuracy or time:"
        log.warning("%s: %s", place, advice_text(title, found.warnings))


def say_shared(train: Manifest, val: Manifest) -> None:
    """Logs what is wrong with training and validation split together, such as images that are in both."""
    lines = check_splits(train, val)
    if lines:
        log.warning("%s", advice_text("training and validation together, what to do:", lines))


def _load_shards(split: DatasetConfig, config: TrainConfig, report_path: Path | None) -> tuple[Manifest, AuditReport]:
    if split.sets:
        raise InputError(
            f"loader=webdataset reads the shards of one data set, but this split has {len(split.sets)} "
            f"({', '.join(split.set_names)}); choose loader=dali or torch"
        )
    if split.shards is None:
        raise InputError(
            f"loader=webdataset reads tar shards, but `shards` beside image_path={split.image_path} is not set; write them with "
            "scripts/prepare_data.py shards=true output=PREPARED and set data=webdataset dataset_base_path=PREPARED, or choose "
            "loader=dali for loose files"
        )
    _warn_of_newer_annotations(split.annotation_path, split.shards)
    manifest, report = load_shards(
        split.shards, config.dataloader.shard_reader, report_path, config.dataloader.shard_connections
    )
    if not len(manifest):
        raise InputError(
            f"{split.shards}: these shards hold no image; write them again with scripts/prepare_data.py shards=true"
        )
    _refuse_huge_images(manifest, config.pipeline.max_megapixels)
    return manifest, report


def _refuse_huge_images(manifest: Manifest, max_megapixels: float) -> None:
    """Raises InputError if the index of the shards states an image larger than the configuration allows."""
    num_pixels = manifest.stored_sizes.astype(np.int64).prod(axis=1)
    too_large = np.flatnonzero(num_pixels > max_megapixels * 1e6)
    if len(too_large):
        height, width = manifest.stored_sizes[too_large[0]]
        raise InputError(
            f"{manifest.image_paths[too_large[0]]}: found {width} x {height} pixels, and {len(too_large)} images of more than "
            f"{max_megapixels:g} megapixels; make them smaller and write the shards again, or raise pipeline.max_megapixels"
        )


def _warn_of_ignored_settings(split: DatasetConfig, config: TrainConfig, training: bool) -> None:
    ignored = split.settings_without_effect()
    if ignored:
        log.warning("%s: these settings are ignored: %s", split.places, ", ".join(ignored))
    reads_shards = config.loader == "webdataset"
    if training and not reads_shards and config.dataloader.shard_reader != "dali":  # once per run
        log.warning(
            "dataloader.shard_reader=%s is ignored: loader=%s reads no shards",
            config.dataloader.shard_reader,
            config.loader,
        )
    ignored = split.settings_without_effect_on_shards() if reads_shards and split.shards is not None else []
    if ignored:
        log.warning(
            "%s: these settings are ignored: %s (loader=webdataset takes images and checked annotations from the shards; "
            "loader=dali or torch reads loose files)",
            split.shards,
            ", ".join(ignored),
        )


def _warn_of_newer_annotations(annotation_path: str | None, shards: str) -> None:
    """Warns if annotations and index are local files and the annotations are newer."""
    if annotation_path is None:
        return
    index, annotations = Path(shards, INDEX_NAME), Path(annotation_path)
    if index.is_file() and annotations.is_file() and annotations.stat().st_mtime_ns > index.stat().st_mtime_ns:
        log.warning(
            "%s is newer than %s, which holds the annotations as they were when the shards were written; if they have changed, "
            "write the shards again with scripts/prepare_data.py shards=true",
            annotations,
            index,
        )
