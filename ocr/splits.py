"""From the configuration to checked data sets."""

import logging
from pathlib import Path

from ocr.config import DataSection, TrainConfig
from ocr.datasets.audit import AuditReport, load_manifest
from ocr.datasets.base import ValidatedOCRDataset
from ocr.datasets.manifest import Manifest
from ocr.datasets.plan import SamplePlanner
from ocr.datasets.schemas import DatasetConfig
from ocr.datasets.shards.images import load_shards
from ocr.datasets.shards.index import INDEX_NAME
from ocr.errors import InputError
from ocr.synthetic import draw_data_set

log = logging.getLogger(__name__)


def draw_if_synthetic(config: DataSection) -> None:
    """Draws the synthetic set into dataset_base_path where data=synthetic asks for it and it is not there yet."""
    if config.draw_synthetic:
        draw_data_set(config.synthetic, Path(config.dataset_base_path))


def build_dataset(
    split_config: DatasetConfig, config: TrainConfig, *, training: bool, report_path: Path | None = None
) -> ValidatedOCRDataset:
    """The audited data set of one split: loose files or, with loader=webdataset, shards.

    Args:
        split_config: where it is.
        config: of the run: loader, pipeline, targets and seed are taken from it.
        training: augment at random; otherwise letterbox.
        report_path: where the audit writes its findings as JSON.
    """
    planner = SamplePlanner(config.pipeline, training=training, seed=config.seed)
    check_caches(split_config, planner)
    idle = split_config.settings_without_effect()
    if idle:
        log.warning("%s: set, but without effect: %s", split_config.image_path, ", ".join(idle))
    if training and config.loader != "webdataset" and config.dataloader.shard_reader != "dali":  # once a run
        log.warning(
            "dataloader.shard_reader=%s: set, but without effect (loader=%s reads no shards)",
            config.dataloader.shard_reader,
            config.loader,
        )
    manifest, report = _load(split_config, config, report_path)
    log.info("%s", report.summary())
    if not len(manifest):
        if config.loader == "webdataset":
            raise InputError(
                f"{split_config.shards}: these shards hold no image; write them again with scripts/prepare_data.py shards=true"
            )
        raise InputError(
            f"{split_config.image_path}: no usable image; expected files ending in {split_config.image_extensions}"
        )
    return ValidatedOCRDataset(split_config, planner, config.targets, manifest)


def _load(split_config: DatasetConfig, config: TrainConfig, report_path: Path | None) -> tuple[Manifest, AuditReport]:
    if config.loader != "webdataset":
        return load_manifest(split_config, max_megapixels=config.pipeline.max_megapixels, report_path=report_path)
    if split_config.shards is None:
        raise InputError(
            f"loader=webdataset reads tar shards, but `shards` beside image_path={split_config.image_path} is not set; write them "
            "with scripts/prepare_data.py shards=true output=PREPARED and give data=webdataset dataset_base_path=PREPARED, or take "
            "loader=dali for loose files"
        )
    idle = split_config.settings_without_effect_on_shards()
    if idle:
        log.warning(
            "%s: set, but without effect: %s (loader=webdataset takes images and checked annotations from these shards; "
            "loader=dali or torch reads loose files)",
            split_config.shards,
            ", ".join(idle),
        )
    _warn_of_newer_annotations(split_config.annotation_path, split_config.shards)
    return load_shards(split_config.shards, config.dataloader.shard_reader, report_path)


def _warn_of_newer_annotations(annotation_path: str | None, shards: str) -> None:
    """Where both are local files."""
    if annotation_path is None:
        return
    index, annotations = Path(shards, INDEX_NAME), Path(annotation_path)
    if index.is_file() and annotations.is_file() and annotations.stat().st_mtime_ns > index.stat().st_mtime_ns:
        log.warning(
            "%s: newer than %s, which holds the annotations of the time when the shards were written; if they have changed, write "
            "the shards again with scripts/prepare_data.py shards=true",
            annotations,
            index,
        )


def check_caches(split_config: DatasetConfig, planner: SamplePlanner) -> None:
    """Refuses to keep what is different in each epoch.

    Raises:
        InputError: finished tensors or maps of a random pipeline were asked for.
    """
    if not planner.is_random:
        return
    asked = {
        "cache_config.cache_transformed_tensors": split_config.cache_config.cache_transformed_tensors,
        "load_maps": split_config.load_maps,
        "preload_maps": split_config.preload_maps,
    }
    wrong = [key for key, value in asked.items() if value]
    if wrong:
        raise InputError(
            f"{split_config.image_path}: {', '.join(f'{key}=true' for key in wrong)}, but this pipeline crops, turns and colours "
            "each image anew in every epoch, so a kept result would be wrong in the next; set it to false (what can be kept "
            "of training images is cache_config.cache_decoded_images)"
        )
