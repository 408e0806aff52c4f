"""From the configuration to checked data sets."""

import logging
from pathlib import Path

from ocr.config import DataSection, TrainConfig
from ocr.datasets.base import ValidatedOCRDataset, load_manifest
from ocr.datasets.plan import SamplePlanner
from ocr.datasets.schemas import DatasetConfig
from ocr.datasets.synthetic import draw_data_set
from ocr.errors import InputError

log = logging.getLogger(__name__)


def draw_if_synthetic(config: DataSection) -> None:
    """Draws the synthetic set into dataset_base_path where data=synthetic asks for it and it is not there yet."""
    if config.draw_synthetic:
        draw_data_set(config.synthetic, Path(config.dataset_base_path))


def build_dataset(
    split_config: DatasetConfig, config: TrainConfig, *, training: bool, report_path: Path | None = None
) -> ValidatedOCRDataset:
    """The audited data set of one split.

    Args:
        split_config: where it is.
        config: of the run: pipeline, targets and seed are taken from it.
        training: augment at random; otherwise letterbox.
        report_path: where the audit writes its findings as JSON.
    """
    manifest, report = load_manifest(
        split_config, max_megapixels=config.pipeline.max_megapixels, report_path=report_path
    )
    log.info("%s", report.summary())
    if not len(manifest):
        raise InputError(
            f"{split_config.image_path}: no usable image; expected files ending in {split_config.image_extensions}"
        )
    planner = SamplePlanner(config.pipeline, training=training, seed=config.seed)
    return ValidatedOCRDataset(split_config, planner, config.targets, manifest)
