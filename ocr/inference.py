"""Runs a trained network on images: evaluation against annotations, and prediction without them."""

import json
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import lightning
from lightning.pytorch.callbacks import Callback, RichProgressBar

from ocr.atomic_write import write_durably
from ocr.config import NOT_SET, DataSection, DatasetsConfig, EvaluateConfig, LoaderName, PredictConfig, TrainConfig
from ocr.datasets.base import ValidatedOCRDataset
from ocr.datasets.image_checks import IMAGE_EXTENSIONS
from ocr.datasets.image_list import find_images
from ocr.datasets.schemas import DatasetConfig
from ocr.device import resolve_device
from ocr.errors import InputError
from ocr.loaders.engines import check_dali, has_dali
from ocr.memory.out_of_memory import ExplainOutOfMemory
from ocr.memory.remedies import inference_remedies
from ocr.placement import Placement
from ocr.predictions import draw_picture, save_picture, write_predictions
from ocr.progress import followed
from ocr.restore import restore
from ocr.splits import build_dataset, draw_if_synthetic
from ocr.training.callbacks.memory import FollowForOutOfMemory
from ocr.training.callbacks.pictures import DetectionPictures
from ocr.training.callbacks.progress_lines import ProgressLines
from ocr.training.datamodule import DBNetDataModule
from ocr.training.devices import RunEnvironment
from ocr.training.interruption import leave_checkpoints_alone
from ocr.training.module import DBNetModule
from ocr.training.scores import STRICT_IOU, scores_of_sets

log = logging.getLogger(__name__)


def evaluate(config: EvaluateConfig, run_dir: Path) -> dict[str, Any]:
    """Returns the metrics of a checkpoint on one split; writes metrics.json, predictions.json and pictures/ below `run_dir`.

    Raises:
        InputError: the split has no annotations, or loader=dali without DALI.
        OutOfMemory: RAM or GPU memory ran out; the message names a smaller batch size.
    """
    log.info("writing to %s", run_dir)
    settings, model = restore(config)
    settings = _with_loader_of_this_machine(settings, config.loader)
    settings, dataset = _evaluated_split(config, settings, run_dir)
    module = DBNetModule(model, settings, dataset.manifest, with_cleval=True)
    pictures = DetectionPictures(run_dir, settings.logger.num_pictures)
    scores, failed_files = _run_once("validate", settings, dataset, module, pictures)
    iou = "iou_" if settings.metric == "cleval" else ""  # val/hmean is CLEval's then
    metrics: dict[str, Any] = {name: scores[f"val/{iou}{name}"] for name in ("hmean", "precision", "recall")}
    of_sets = scores_of_sets(scores, f"val/{iou}")
    first = 0
    for part in dataset.manifest.sets:
        found = sum(first <= index < first + part.num_images for index in module.evaluation.detections_original)
        of_sets[part.name] |= {"images": found}
        first += part.num_images
    metrics |= {
        f"hmean_iou{STRICT_IOU}": scores[f"val/hmean_iou{STRICT_IOU}"],
        "images": len(module.evaluation.detections_original),
        "cleval": {name: scores[f"val/cleval_{name}"] for name in ("hmean", "precision", "recall")},
        "failed_files": failed_files,
    }
    metrics |= {"sets": of_sets} if of_sets else {}
    write_durably(run_dir / "metrics.json", json.dumps(metrics, indent=1).encode())
    write_predictions(run_dir / "predictions.json", dataset.manifest, module.evaluation.detections_original)
    log.info(
        "hmean %.4f, precision %.4f, recall %.4f at IoU 0.5; hmean %.4f at IoU %.1f; CLEval hmean %.4f; %d images",
        *(metrics[name] for name in ("hmean", "precision", "recall", f"hmean_iou{STRICT_IOU}")),
        STRICT_IOU,
        metrics["cleval"]["hmean"],
        metrics["images"],
    )
    for name, own in of_sets.items():
        log.info("%s: hmean %.4f, precision %.4f, recall %.4f; %d images", name, *own.values())
    log.info("everything is in %s", run_dir)
    return metrics


def predict(config: PredictConfig, run_dir: Path) -> Path:
    """Finds text in images. Returns the folder it writes predictions.json and the pictures to.

    Raises:
        InputError: there is no such image, the output lies among the images, or loader=webdataset.
        OutOfMemory: RAM or GPU memory ran out; the message names a smaller batch size.
    """
    split_config, names, output = _images_and_output(config, run_dir)
    log.info("writing to %s", output)
    settings, model = restore(config)
    settings = _with_loader_of_this_machine(settings, config.loader)
    settings = _with_loose_files(settings)
    dataset = build_dataset(_for_one_pass(split_config), settings, training=False, names=names, size_key="image_size")
    module = DBNetModule(model, settings, dataset.manifest)
    _run_once("predict", settings, dataset, module)
    detections = module.evaluation.detections_original
    write_predictions(output / "predictions.json", dataset.manifest, detections)
    if config.draw:
        for index in followed(sorted(detections), "Drawing pictures", len(detections)):
            picture = draw_picture(dataset.load_image(index).image_array, detections[index])
            extensions = dataset.config.image_extensions
            save_picture(picture, output / "pictures", dataset.manifest.filenames[index], extensions)
    num_found = sum(len(found.polygons) for found in detections.values())
    log.info("%d texts found in %d images", num_found, len(detections))
    log.info("everything is in %s", output)
    return output


def _evaluated_split(
    config: EvaluateConfig, settings: TrainConfig, run_dir: Path
) -> tuple[TrainConfig, ValidatedOCRDataset]:
    """Returns the settings for the split and its audited data set.

    If the command names no data set, it is the one that the checkpoint was trained with, which must exist.
    """
    source: DataSection = settings
    if config.datasets.has_split(config.split):
        source = config
        if config.loader is None:
            settings = _with_loose_files(settings)
    elif config.dataset_base_path != NOT_SET or config.datasets != DatasetsConfig():
        _refuse_missing_split(config, config.split)
        raise InputError(
            f"datasets.{config.split}_dataset.config.image_path is not set, but other keys of the data set are; add "
            "data=upstage (or another), or give none of them to evaluate on the data set the checkpoint was trained with"
        )
    draw_if_synthetic(source)
    if settings.loader != "webdataset":
        _refuse_missing_split(source, config.split)
    split_config = source.datasets.split(config.split)
    missing = [one.image_path for one in split_config.each_set().values() if not Path(one.image_path).is_dir()]
    if source is not config and settings.loader != "webdataset" and missing:
        raise InputError(
            f"{missing[0]}: no such folder; the checkpoint was trained with the data set in "
            f"{settings.dataset_base_path}; give one, for example data=upstage dataset_base_path=FOLDER, or data=synthetic, which "
            "draws it"
        )
    if settings.loader != "webdataset" and any(one.annotation_path is None for one in split_config.each_set().values()):
        raise InputError(
            f"datasets.{config.split}_dataset.config.annotation_path is not set; nothing to evaluate against"
        )
    report_path = run_dir / f"audit_{config.split}.json"
    split_config = _for_one_pass(split_config)
    return settings, build_dataset(
        split_config, settings, training=False, report_path=report_path, size_key="image_size"
    )


def _refuse_missing_split(source: DataSection, wanted: str) -> None:
    """Raises InputError if the data set lacks the split but has others, which the message names."""
    there = [name for name in ("val", "test", "train") if _split_exists(source, name)]
    if there and wanted not in there:
        raise InputError(
            f"split={wanted}: the data set in {source.dataset_base_path} has no such split; it has {', '.join(there)}: add "
            f"split={there[0]}"
        )


def _split_exists(source: DataSection, name: str) -> bool:
    """Returns whether the folders of images of a split exist."""
    if not source.datasets.has_split(name):
        return False
    return all(Path(one.image_path).is_dir() for one in source.datasets.split(name).each_set().values())


def _images_and_output(config: PredictConfig, run_dir: Path) -> tuple[DatasetConfig, list[str] | None, Path]:
    """Returns the data set to predict, its files (None: all images of its folder), and the folder to write to.

    Prediction reads the images of all formats in a folder, unless image_extensions is set.
    """
    if config.loader == "webdataset":
        raise InputError("predict.py finds text in image files; use loader=dali or torch")
    template = config.datasets.predict_dataset.config
    if template.image_extensions == DatasetConfig.model_fields["image_extensions"].default:
        template = template.model_copy(update={"image_extensions": IMAGE_EXTENSIONS})
    given = config.datasets.split("predict").image_path if config.images == NOT_SET else config.images
    given = (given,) if isinstance(given, str) else given
    output = run_dir if config.output == NOT_SET else Path(config.output)
    for entry in given:
        if output.resolve().is_relative_to(Path(entry).resolve()):
            raise InputError(
                f"output={output} lies in the folder of images, {entry}; the next run would read its own pictures"
            )
    folder, names = Path(given[0]), None
    if len(given) > 1 or not folder.is_dir():
        folder, names = find_images(given, template.image_extensions)
    own = next((name for name in names or () if (folder / name).is_relative_to(output.resolve() / "pictures")), None)
    if own is not None:
        raise InputError(f"output={output} holds {own}, one of the images to read; choose another output")
    return template.model_copy(update={"image_path": str(folder), "annotation_path": None}), names, output


def _for_one_pass(config: DatasetConfig) -> DatasetConfig:
    """Returns the configuration without caches in memory, which pay off only from the second pass on. The disk tier stays.

    Inputs are rounded as in the run's validation, so the scores are the same.
    """
    cache = config.cache_config.model_copy(update={"device_budget": 0, "ram_budget": 0})
    return config.model_copy(update={"preload_images": False, "prenormalize_images": False, "cache_config": cache})


def _with_loader_of_this_machine(settings: TrainConfig, given: LoaderName | None) -> TrainConfig:
    """Returns the settings with PyTorch's loader in place of DALI's if DALI is missing and the user named no loader.

    Raises:
        InputError: the user named a loader that needs DALI.
    """
    if settings.engine != "dali" or has_dali():
        return settings
    if given is not None:
        check_dali(given)
    log.info("NVIDIA DALI is not installed: PyTorch workers read the images (loader=torch)")
    if settings.loader == "dali":
        return settings.model_copy(update={"loader": "torch"})
    reader = settings.dataloader.model_copy(update={"shard_reader": "webdataset"})
    return settings.model_copy(update={"dataloader": reader})


def _with_loose_files(settings: TrainConfig) -> TrainConfig:
    """Returns the settings with the same engine but loose image files, even if the training read shards."""
    return settings.model_copy(update={"loader": settings.engine})


def _run_once(
    step: Literal["validate", "predict"],
    settings: TrainConfig,
    dataset: ValidatedOCRDataset,
    module: DBNetModule,
    *callbacks: Callback,
) -> tuple[Mapping[str, float], dict[str, str]]:
    """Runs the network over the data set. Returns the scores, if any, and the reason for each file that failed."""
    remedies = inference_remedies(settings.dataloader.eval_batch_size, settings.pipeline.image_size)
    # Target maps are made only so that the disk cache has the entries of a training run.
    val_targets = settings.trainer.val_loss and dataset.config.cache_config.directory is not None
    data = DBNetDataModule(None, dataset, settings.dataloader, loader=settings.engine, val_targets=val_targets)
    scores: Mapping[str, float] = {}
    with ExplainOutOfMemory(lambda in_validation: remedies) as explain:
        trainer = _build_trainer(settings, [FollowForOutOfMemory(explain), *callbacks])
        try:
            if step == "validate":
                (scores,) = trainer.validate(module, datamodule=data, verbose=False)
            else:
                trainer.predict(module, datamodule=data, return_predictions=False)
        finally:  # Lightning skips the teardown when a run ends with an error
            data.teardown(step)
    return scores, data.evaluation_failures


def _build_trainer(settings: TrainConfig, callbacks: list[Callback]) -> lightning.Trainer:
    device = resolve_device(settings.device)
    interactive = sys.stderr.isatty()
    trainer = lightning.Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=1,
        plugins=[RunEnvironment(Placement())],  # one process, whatever torchrun and srun say
        precision=settings.trainer.precision,  # type: ignore[arg-type]
        logger=False,
        callbacks=[*callbacks, RichProgressBar() if interactive else ProgressLines()],
        enable_progress_bar=interactive,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    leave_checkpoints_alone(trainer)
    return trainer
