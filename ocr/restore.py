"""Restores a trained network for inference: the checkpoint's settings with a command's overrides."""

from typing import Any

from ocr.checkpoint import load_checkpoint
from ocr.config import DatasetsConfig, InferenceConfig, TrainConfig
from ocr.device import resolve_device, resolve_loading, resolve_pipeline, resolve_precision
from ocr.models.dbnet import DBNet


def restore(config: InferenceConfig) -> tuple[TrainConfig, DBNet]:
    """Returns the checkpoint's configuration with the overrides of `config`, and its network on the CPU.

    A checkpoint may come from a stranger. Its configuration describes the network, its preprocessing and the data set to read, but
    never where to write. So no data set is drawn for it, and its cache folders are left out.

    Raises:
        FileNotFoundError: no such checkpoint.
        InputError: not a checkpoint of this trainer, or device=gpu without a GPU.
    """
    settings, model = load_checkpoint(config.checkpoint)
    given = {name: value for name, value in config.postprocess if value is not None}
    pipeline: dict[str, Any] = {} if config.image_size is None else {"image_size": config.image_size}
    dataloader: dict[str, Any] = {} if config.batch_size is None else {"eval_batch_size": config.batch_size}
    device = resolve_device(config.device)
    precision = resolve_precision(config.precision or settings.trainer.precision, device)
    pipeline_config = resolve_pipeline(settings.pipeline.model_copy(update=pipeline), precision)
    loading = settings.dataloader.model_copy(update=dataloader)
    return settings.model_copy(
        update={
            "draw_synthetic": False,
            "datasets": _without_cache_folders(settings.datasets),
            "device": config.device,
            "loader": config.loader or settings.loader,
            "pipeline": pipeline_config,
            "dataloader": resolve_loading(loading, pipeline_config.image_size, device),
            "trainer": settings.trainer.model_copy(update={"precision": precision}),
            "postprocess": settings.postprocess.model_copy(update=given),
        }
    ), model


def _without_cache_folders(datasets: DatasetsConfig) -> DatasetsConfig:
    """Returns the splits with a cache in memory only."""
    entries = {}
    for name, entry in datasets:
        cache = entry.config.cache_config.model_copy(update={"directory": None, "disk_budget": None})
        entries[name] = entry.model_copy(update={"config": entry.config.model_copy(update={"cache_config": cache})})
    return datasets.model_copy(update=entries)
