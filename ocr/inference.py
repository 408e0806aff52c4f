"""A trained network on other images: evaluation against annotations, and prediction without."""

import json
import logging
import sys
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import RichProgressBar
from rich.progress import track

from ocr.checkpoint import load_checkpoint
from ocr.config import NOT_SET, EvaluateConfig, InferenceConfig, PredictConfig, TrainConfig
from ocr.datasets.base import ValidatedOCRDataset
from ocr.datasets.splits import build_dataset, draw_if_synthetic
from ocr.device import resolve_device, resolve_precision
from ocr.errors import InputError
from ocr.models.dbnet import DBNet
from ocr.predictions import draw_picture, write_predictions
from ocr.training.datamodule import DBNetDataModule
from ocr.training.module import STRICT_IOU, DBNetModule

log = logging.getLogger(__name__)


def evaluate(config: EvaluateConfig, run_dir: Path) -> dict[str, Any]:
    """The metrics of a checkpoint on one split; writes metrics.json, predictions.json and pictures/ below `run_dir`."""
    settings, model = _restore(config)
    if config.datasets.has_split(config.split):
        draw_if_synthetic(config)
        split_config = config.datasets.split(config.split)
    else:
        draw_if_synthetic(settings)
        split_config = settings.datasets.split(config.split)
    if split_config.annotation_path is None:
        raise InputError(
            f"datasets.{config.split}_dataset.config.annotation_path is not set; nothing to evaluate against"
        )
    dataset = build_dataset(split_config, settings, training=False, report_path=run_dir / f"audit_{config.split}.json")
    module = DBNetModule(model, settings, dataset.manifest)
    trainer, data = _trainer(settings, dataset)
    (scores,) = trainer.validate(module, datamodule=data, verbose=False)
    metrics: dict[str, Any] = {name: scores[f"val/{name}"] for name in ("hmean", "precision", "recall")}
    metrics |= {f"hmean_iou{STRICT_IOU}": scores[f"val/hmean_iou{STRICT_IOU}"], "images": len(dataset)}
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / "metrics.json").write_text(json.dumps(metrics, indent=1))
    write_predictions(run_dir / "predictions.json", dataset.manifest, module.evaluation.detections_original)
    log.info(
        "hmean %.4f, precision %.4f, recall %.4f at IoU 0.5; hmean %.4f at IoU %.1f; %d images",
        *(metrics[name] for name in ("hmean", "precision", "recall", f"hmean_iou{STRICT_IOU}")),
        STRICT_IOU,
        len(dataset),
    )
    log.info("everything is in %s", run_dir)
    return metrics


def predict(config: PredictConfig, run_dir: Path) -> Path:
    """Finds text in a folder of images; the folder that predictions.json and the pictures were written to."""
    folder = config.images
    if folder == NOT_SET:
        folder = config.datasets.split("predict").image_path
    output = run_dir if config.output == NOT_SET else Path(config.output)
    settings, model = _restore(config)
    template = config.datasets.predict_dataset.config
    split_config = template.model_copy(update={"image_path": folder, "annotation_path": None})
    dataset = build_dataset(split_config, settings, training=False)
    module = DBNetModule(model, settings, dataset.manifest)
    trainer, data = _trainer(settings, dataset)
    trainer.predict(module, datamodule=data, return_predictions=False)
    found = module.evaluation.detections_original
    write_predictions(output / "predictions.json", dataset.manifest, found)
    if config.draw:
        for index in track(sorted(found), "drawing", disable=not sys.stderr.isatty()):
            picture = draw_picture(dataset.load_image(index).image_array, found[index])
            target = (output / dataset.manifest.filenames[index]).with_suffix(".jpg")
            target.parent.mkdir(parents=True, exist_ok=True)
            picture.save(target, quality=90)
    num_found = sum(len(detections.polygons) for detections in found.values())
    log.info("%d texts found in %d images; everything is in %s", num_found, len(found), output)
    return output


def _restore(config: InferenceConfig) -> tuple[TrainConfig, DBNet]:
    """The checkpoint's configuration with this command's overrides, and its network."""
    settings, model = load_checkpoint(config.checkpoint)
    given = {name: value for name, value in config.postprocess if value is not None}
    pipeline, dataloader, trainer = {}, {}, {}
    if config.image_size is not None:
        pipeline["image_size"] = config.image_size
    if config.batch_size is not None:
        dataloader["eval_batch_size"] = config.batch_size
    if config.precision is not None:
        trainer["precision"] = config.precision
    return settings.model_copy(
        update={
            "device": config.device,
            "loader": config.loader or settings.loader,
            "pipeline": settings.pipeline.model_copy(update=pipeline),
            "dataloader": settings.dataloader.model_copy(update=dataloader),
            "trainer": settings.trainer.model_copy(update=trainer),
            "postprocess": settings.postprocess.model_copy(update=given),
        }
    ), model


def _trainer(settings: TrainConfig, dataset: ValidatedOCRDataset) -> tuple[lightning.Trainer, DBNetDataModule]:
    device = resolve_device(settings.device)
    interactive = sys.stderr.isatty()
    trainer = lightning.Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=1,
        precision=resolve_precision(settings.trainer.precision, device),  # type: ignore[arg-type]
        logger=False,
        callbacks=[RichProgressBar()] if interactive else None,
        enable_progress_bar=interactive,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    data = DBNetDataModule(None, dataset, settings.dataloader, loader=settings.loader, device_type=device.type)
    return trainer, data
