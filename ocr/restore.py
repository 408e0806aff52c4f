"""Restores a trained network for inference: the checkpoint's settings with a command's overrides."""

from typing import Any

from ocr.checkpoint import load_checkpoint
from ocr.config import DatasetsConfig, InferenceConfig, TrainConfig
from ocr.datasets.schemas import DatasetConfig
from ocr.device import resolve_device, resolve_loading, resolve_pipeline, resolve_precision
from ocr.errors import InputError
from ocr.models.dbnet import DBNet
from ocr.models.inference import InferenceNet, for_inference
from ocr.onnx_network import OnnxNetwork, is_onnx, load_onnx
from ocr.postprocess.config import RESULT_KEYS

_SECTIONS = ("model", "targets", "metric", "loader", "dataset_base_path")
_PIPELINE = (
    *("image_size", "mean", "std", "jpeg_fancy_upsampling", "scaled_decode", "output_dtype", "output_layout"),
    "max_megapixels",
)
_TRAINER = ("precision", "channels_last")
_DATASET = (
    *("image_path", "sets", "annotation_path", "annotation_format", "annotation_set", "annotation_frame", "shards"),
    *("image_extensions", "on_bad_sample", "check_pixels"),
)
_CACHE = ("cache_transformed_tensors", "dtype")
"""Settings of the cache that decide how inputs are rounded, which must be as in the run's validation."""


def restore(config: InferenceConfig) -> tuple[TrainConfig, DBNet | OnnxNetwork]:
    """Returns the configuration of a checkpoint or .onnx file with the overrides of `config`, and its network on the CPU.

    For an .onnx file, `device` of the configuration is the device that onnxruntime runs on.

    A checkpoint may come from a stranger. Its configuration describes the network, its preprocessing and the data set to read. It
    decides neither where to write nor how much of the machine to use, so all other settings have their defaults.

    Raises:
        FileNotFoundError: no such checkpoint.
        InputError: not a checkpoint of this trainer, or device=gpu without a GPU.
    """
    if is_onnx(config.checkpoint):
        if config.precision not in (None, "auto", "32-true"):
            raise InputError(
                f"precision={config.precision}: an .onnx file has the precision it was exported with; leave precision out, or "
                "export with precision=float16"
            )
        exported, network, device = load_onnx(config.checkpoint, config.device)
        return _with_overrides(exported, config.model_copy(update={"device": device, "precision": "32-true"})), network
    saved, model = load_checkpoint(config.checkpoint)
    return _with_overrides(saved, config), model


def restore_for_inference(config: InferenceConfig) -> tuple[TrainConfig, InferenceNet | OnnxNetwork]:
    """Returns what `restore` returns, the network without the parts that only training needs."""
    settings, model = restore(config)
    return settings, for_inference(model) if isinstance(model, DBNet) else model


def _with_overrides(saved: TrainConfig, config: InferenceConfig) -> TrainConfig:
    """Returns the settings of inference: those in the file, the overrides of the command, and defaults for the rest."""
    default = TrainConfig()
    given = {name: value for name, value in config.postprocess if value is not None}
    pipeline = _chosen(saved.pipeline, _PIPELINE) | (
        {} if config.image_size is None else {"image_size": config.image_size}
    )
    dataloader: dict[str, Any] = {} if config.batch_size is None else {"eval_batch_size": config.batch_size}
    device = resolve_device(config.device)
    precision = resolve_precision(config.precision or saved.trainer.precision, device)
    pipeline_config = resolve_pipeline(default.pipeline.model_copy(update=pipeline), precision)
    loading = default.dataloader.model_copy(update=dataloader)
    trainer = _chosen(saved.trainer, _TRAINER) | {"precision": precision}
    return default.model_copy(
        update=_chosen(saved, _SECTIONS)
        | {
            "datasets": _described(saved.datasets),
            "device": config.device,
            "loader": config.loader or saved.loader,
            "pipeline": pipeline_config,
            "dataloader": resolve_loading(loading, pipeline_config.image_size, device),
            "trainer": default.trainer.model_copy(update=trainer),
            "postprocess": default.postprocess.model_copy(update=_chosen(saved.postprocess, RESULT_KEYS) | given),
        }
    )


def what_results_depend_on(settings: TrainConfig) -> dict[str, Any]:
    """Returns the restored settings that can change a detection or a score, for JSON."""
    sections = {"pipeline": _PIPELINE, "trainer": _TRAINER, "postprocess": RESULT_KEYS}
    chosen = {name: _chosen(getattr(settings, name), keys) for name, keys in sections.items()}
    return chosen | {
        "targets": settings.targets.model_dump(mode="json"),
        "metric": settings.metric,
        "engine": settings.engine,
        "loader": settings.loader,
        "batch_size": settings.dataloader.eval_batch_size,
    }


def _chosen(section: Any, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: getattr(section, name) for name in names}


def _described(datasets: DatasetsConfig) -> DatasetsConfig:
    """Returns the splits with what says which images and annotations they hold, and how inputs are rounded.

    Nothing is written beside images in a place that a checkpoint names: the audit's memo goes to the user's cache.
    """
    entries = {}
    for name, entry in DatasetsConfig():
        saved: DatasetConfig = getattr(datasets, name).config
        cache = entry.config.cache_config.model_copy(update=_chosen(saved.cache_config, _CACHE))
        described = entry.config.model_copy(
            update=_chosen(saved, _DATASET) | {"cache_config": cache, "audit_memo": "cache"}
        )
        entries[name] = entry.model_copy(update={"config": described})
    return datasets.model_copy(update=entries)
