"""Chooses the size of the network's input by the heights of the training words (pipeline.image_size=auto)."""

import logging
from typing import TypeVar

import torch

from dali_pipelines.config import AUTO, PipelineConfig
from ocr.config import TrainConfig
from ocr.datasets.data_checks import Measures, size_for_most
from ocr.datasets.manifest import Manifest
from ocr.device import largest_image_size, resolve_device, total_memory
from ocr.placement import placement
from ocr.splits import audited_split, draw_if_synthetic
from ocr.targets.config import TargetConfig

log = logging.getLogger(__name__)

TrainingConfig = TypeVar("TrainingConfig", bound=TrainConfig)


def with_chosen_size(config: TrainingConfig) -> TrainingConfig:
    """Returns the configuration with a number for pipeline.image_size=auto; it reads the training split for that.

    The audit of the split is kept (`audit_memo`), so that the run does not repeat it.

    Raises:
        InputError: the training split cannot be used.
    """
    if config.pipeline.image_size != AUTO:
        return config
    draw_if_synthetic(config)
    manifest, _ = audited_split(config.datasets.split("train").without_list_of_one(), config, None)
    device = resolve_device(config.device)
    pipeline = with_size_for_words(
        config.pipeline, manifest, config.targets.min_side, config.dataloader.batch_size, device
    )
    return config.model_copy(update={"pipeline": pipeline})


def with_size_for_words(
    pipeline: PipelineConfig, manifest: Manifest, min_side: float, batch_size: int, device: torch.device
) -> PipelineConfig:
    """Returns the pipeline with the smallest image_size at which 95 % of the words are tall enough, and logs it.

    Memory bounds it (`largest_image_size`), but not below the default. Without a legible word it is the default.

    Args:
        min_side: `targets.min_side`. Tall enough is this, but at least its default of 8 pixels: a lower value of an experiment
            keeps more small words, and does not mean that smaller images suffice.
    """
    default, min_side = PipelineConfig().image_size, max(min_side, TargetConfig().min_side)
    measures = Measures.of(manifest)
    wanted = size_for_most(measures, min_side)
    bound = max(largest_image_size(total_memory(device), pipeline, batch_size, device.type), default)
    size = default if wanted is None else min(wanted, bound)
    if placement().is_first:
        _say_chosen(size, wanted, measures, min_side, has_crop=pipeline.augmentation.crop_size is not None)
    return pipeline.model_copy(update={"image_size": size})


def _say_chosen(size: int, wanted: int | None, measures: Measures, min_side: float, *, has_crop: bool) -> None:
    if wanted is None:
        log.warning("pipeline.image_size=auto: %d, the default, since no training word has a height to go by", size)
    elif wanted == size:
        log.info(
            "pipeline.image_size=auto: %d, at which 95 %% of the training words are at least %g px tall", size, min_side
        )
    else:
        lost = float((measures.heights_of_longest[measures.legible] * size < min_side).mean())
        crop = f"; pipeline.augmentation.crop_size={PipelineConfig().image_size} makes training batches smaller"
        log.warning(
            "pipeline.image_size=auto: %d, which is as large as the memory allows; %.1f %% of the training words are below %g px, "
            "and %d would keep 95 %%%s",
            *(size, 100 * lost, min_side, wanted, "" if has_crop else crop),
        )
