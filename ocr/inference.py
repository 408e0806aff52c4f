"""A trained network on other images: evaluation against annotations, and prediction without."""

import json
import logging
import sys
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback, RichProgressBar
from rich.progress import track

from ocr.checkpoint import load_checkpoint
from ocr.config import NOT_SET, DataSection, DatasetsConfig, EvaluateConfig, InferenceConfig, PredictConfig, TrainConfig
from ocr.datasets.base import ValidatedOCRDataset
from ocr.datasets.schemas import DatasetConfig
from ocr.device import resolve_device, resolve_pipeline, resolve_precision
from ocr.errors import InputError
from ocr.memory.out_of_memory import ExplainShortages, inference_remedies
from ocr.models.dbnet import DBNet
from ocr.predictions import draw_picture, save_picture, write_predictions
from ocr.splits import build_dataset, draw_if_synthetic
from ocr.training.callbacks import DetectionPictures
from ocr.training.datamodule import DBNetDataModule
from ocr.training.module import STRICT_IOU, DBNetModule

log = logging.getLogger(__name__)


def evaluate(config: EvaluateConfig, run_dir: Path) -> dict[str, Any]:
    """The metrics of a checkpoint on one split; writes metrics.json, predictions.json and pictures/ below `run_dir`.

    Raises:
        OutOfMemory: see `predict`.
    """
    log.info("writing to %s", run_dir)
    settings, model = _restore(config)
    source = _data_of(config, settings)
    if source is config and config.loader is None:
        settings = _on_loose_files(settings)
    draw_if_synthetic(source)
    split_config = source.datasets.split(config.split)
    if split_config.annotation_path is None and settings.loader != "webdataset":
        raise InputError(
            f"datasets.{config.split}_dataset.config.annotation_path is not set; nothing to evaluate against"
        )
    dataset = build_dataset(
        _for_one_pass(split_config), settings, training=False, report_path=run_dir / f"audit_{config.split}.json"
    )
    module = DBNetModule(model, settings, dataset.manifest, with_cleval=True)
    shortages, pictures = _explain_shortages(settings), DetectionPictures(run_dir, settings.logger.num_pictures)
    trainer, data = _trainer(settings, dataset, shortages, pictures)
    with shortages:
        try:
            (scores,) = trainer.validate(module, datamodule=data, verbose=False)
        finally:  # Lightning leaves this out where a run ends with an error
            data.teardown("validate")
    iou = "iou_" if settings.metric == "cleval" else ""  # val/hmean is then CLEval's
    metrics: dict[str, Any] = {name: scores[f"val/{iou}{name}"] for name in ("hmean", "precision", "recall")}
    metrics |= {
        f"hmean_iou{STRICT_IOU}": scores[f"val/hmean_iou{STRICT_IOU}"],
        "images": len(module.evaluation.detections_original),
        "cleval": {name: scores[f"val/cleval_{name}"] for name in ("hmean", "precision", "recall")},
        "failed_files": data.evaluation_failures,
    }
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / "metrics.json").write_text(json.dumps(metrics, indent=1))
    write_predictions(run_dir / "predictions.json", dataset.manifest, module.evaluation.detections_original)
    log.info(
        "hmean %.4f, precision %.4f, recall %.4f at IoU 0.5; hmean %.4f at IoU %.1f; CLEval hmean %.4f; %d images",
        *(metrics[name] for name in ("hmean", "precision", "recall", f"hmean_iou{STRICT_IOU}")),
        STRICT_IOU,
        metrics["cleval"]["hmean"],
        metrics["images"],
    )
    log.info("everything is in %s", run_dir)
    return metrics


def predict(config: PredictConfig, run_dir: Path) -> Path:
    """Finds text in a folder of images; the folder that predictions.json and the pictures were written to.

    Raises:
        OutOfMemory: RAM or GPU memory ran out; names the batch size that takes less.
    """
    folder = config.images
    if folder == NOT_SET:
        folder = config.datasets.split("predict").image_path
    if config.loader == "webdataset":
        raise InputError("predict.py finds text in a folder of images; take loader=dali or torch")
    output = run_dir if config.output == NOT_SET else Path(config.output)
    if output.resolve().is_relative_to(Path(folder).resolve()):
        raise InputError(
            f"output={output} lies in the folder of images, {folder}; the next run would read its own pictures"
        )
    log.info("writing to %s", output)
    settings, model = _restore(config)
    settings = _on_loose_files(settings)
    template = config.datasets.predict_dataset.config
    split_config = template.model_copy(update={"image_path": folder, "annotation_path": None})
    dataset = build_dataset(_for_one_pass(split_config), settings, training=False)
    module = DBNetModule(model, settings, dataset.manifest)
    shortages = _explain_shortages(settings)
    trainer, data = _trainer(settings, dataset, shortages)
    with shortages:
        try:
            trainer.predict(module, datamodule=data, return_predictions=False)
        finally:
            data.teardown("predict")
    found = module.evaluation.detections_original
    write_predictions(output / "predictions.json", dataset.manifest, found)
    if config.draw:
        for index in track(sorted(found), "drawing", disable=not sys.stderr.isatty()):
            picture = draw_picture(dataset.load_image(index).image_array, found[index])
            save_picture(picture, output / "pictures", dataset.manifest.filenames[index])
    num_found = sum(len(detections.polygons) for detections in found.values())
    log.info("%d texts found in %d images; everything is in %s", num_found, len(found), output)
    return output


def _for_one_pass(config: DatasetConfig) -> DatasetConfig:
    """Without what pays from the second pass on: only the disk tier is of use. Inputs are rounded as in the run's validation,
    so that the scores are the same."""
    cache = config.cache_config.model_copy(update={"device_budget": 0, "ram_budget": 0})
    return config.model_copy(update={"preload_images": False, "prenormalize_images": False, "cache_config": cache})


def _data_of(config: EvaluateConfig, settings: TrainConfig) -> DataSection:
    """The data to evaluate on: as given or, where nothing is given, as the checkpoint was trained."""
    if config.datasets.has_split(config.split):
        return config
    if config.dataset_base_path != NOT_SET or config.datasets != DatasetsConfig():
        raise InputError(
            f"datasets.{config.split}_dataset.config.image_path is not set though other keys of the data set are; add "
            "data=upstage (or another), or give nothing to take the data set the checkpoint was trained with"
        )
    return settings


def _on_loose_files(settings: TrainConfig) -> TrainConfig:
    """Where the training took its images from shards, these are taken from files, by the same engine."""
    return settings.model_copy(update={"loader": settings.engine})


def _restore(config: InferenceConfig) -> tuple[TrainConfig, DBNet]:
    """The checkpoint's configuration with this command's overrides, and its network."""
    settings, model = load_checkpoint(config.checkpoint)
    given = {name: value for name, value in config.postprocess if value is not None}
    pipeline: dict[str, Any] = {} if config.image_size is None else {"image_size": config.image_size}
    dataloader: dict[str, Any] = {} if config.batch_size is None else {"eval_batch_size": config.batch_size}
    precision = resolve_precision(config.precision or settings.trainer.precision, resolve_device(config.device))
    return settings.model_copy(
        update={
            "device": config.device,
            "loader": config.loader or settings.loader,
            "pipeline": resolve_pipeline(settings.pipeline.model_copy(update=pipeline), precision),
            "dataloader": settings.dataloader.model_copy(update=dataloader),
            "trainer": settings.trainer.model_copy(update={"precision": precision}),
            "postprocess": settings.postprocess.model_copy(update=given),
        }
    ), model


def _explain_shortages(settings: TrainConfig) -> ExplainShortages:
    remedies = inference_remedies(settings.dataloader.eval_batch_size, settings.pipeline.image_size)
    return ExplainShortages(lambda in_validation: remedies)


def _trainer(
    settings: TrainConfig, dataset: ValidatedOCRDataset, *callbacks: Callback
) -> tuple[lightning.Trainer, DBNetDataModule]:
    device = resolve_device(settings.device)
    interactive = sys.stderr.isatty()
    trainer = lightning.Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=1,
        precision=settings.trainer.precision,  # type: ignore[arg-type]
        logger=False,
        callbacks=[*callbacks, RichProgressBar()] if interactive else list(callbacks),
        enable_progress_bar=interactive,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    # Targets only so that entries of the disk tier are those of a training run.
    val_targets = settings.trainer.val_loss and dataset.config.cache_config.directory is not None
    data = DBNetDataModule(None, dataset, settings.dataloader, loader=settings.engine, val_targets=val_targets)
    return trainer, data
