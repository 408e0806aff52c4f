"""One training run, from its configuration to its files."""

import json
import logging
import time
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import torch
import yaml
from lightning.pytorch.callbacks import Callback

from ocr.checkpoint import PRECISION_KEY, read_checkpoint
from ocr.config import TrainConfig
from ocr.datasets.base import ValidatedOCRDataset
from ocr.device import resolve_device, resolve_pipeline, resolve_precision
from ocr.environment import device_name
from ocr.memory.out_of_memory import ExplainOutOfMemory
from ocr.memory.remedies import training_remedies
from ocr.models.dbnet import build_dbnet
from ocr.predictions import write_predictions
from ocr.splits import build_dataset, draw_if_synthetic
from ocr.training.callbacks.memory import FollowForOutOfMemory, MemoryWatch
from ocr.training.callbacks.summary import RunSummary
from ocr.training.datamodule import DBNetDataModule
from ocr.training.module import DBNetModule
from ocr.training.trainer import build_trainer

log = logging.getLogger(__name__)


def train(config: TrainConfig, run_dir: Path, callbacks: Sequence[Callback] = ()) -> dict[str, Any]:
    """Trains a network and returns the run's summary.

    Writes config.yaml, audit_{train,val}.json, checkpoints/{best,last}.ckpt, metrics.csv, TensorBoard events, summary.json,
    predictions.json (of the last validation) and pictures/ below `run_dir`.

    Args:
        callbacks: callbacks besides those that every run has.

    Raises:
        OutOfMemory: RAM or GPU memory ran out. The files written until then stay.
    """
    last_checkpoint = run_dir / "checkpoints" / "last.ckpt"
    with ExplainOutOfMemory(partial(training_remedies, config, last_checkpoint)) as explain:
        return _train(config, run_dir, [FollowForOutOfMemory(explain), *callbacks])


def _train(config: TrainConfig, run_dir: Path, callbacks: Sequence[Callback]) -> dict[str, Any]:
    log.info("writing to %s", run_dir)
    started = time.perf_counter()
    _start_run(config, run_dir)
    device = resolve_device(config.device)
    precision = _precision_of_run(config, device)
    train_set, val_set = _build_splits(config, precision, run_dir)
    module = DBNetModule(build_dbnet(config.model, config.targets.map_stride), config, val_set.manifest)
    data = DBNetDataModule(
        train_set, val_set, config.dataloader, loader=config.engine, val_targets=config.trainer.val_loss
    )
    summary = RunSummary(config, run_dir, device_name(device))
    trainer = build_trainer(config, device, precision, run_dir, [MemoryWatch(summary.summary), summary, *callbacks])
    _log_network(module, precision, device_name(device))
    _fit(trainer, module, data, summary)
    if trainer.is_global_zero:
        write_predictions(run_dir / "predictions.json", val_set.manifest, module.evaluation.detections_original)
        _log_result(summary.summary, time.perf_counter() - started)
        log.info("everything is in %s", run_dir)
    return json.loads(json.dumps(summary.summary))


def _start_run(config: TrainConfig, run_dir: Path) -> None:
    """Writes config.yaml and sets the seed.

    Raises:
        FileNotFoundError: the checkpoint to resume from does not exist.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
    lightning.seed_everything(config.seed, verbose=False)
    if config.resume is not None and not Path(config.resume).is_file():
        raise FileNotFoundError(f"resume={config.resume}: no such checkpoint")


def _precision_of_run(config: TrainConfig, device: torch.device) -> str:
    """Returns Lightning's name for the precision. With auto, a run resumed on the same type of device keeps its precision."""
    if config.resume is not None and config.trainer.precision == "auto":
        saved = read_checkpoint(config.resume, key="resume").get(PRECISION_KEY, {})
        if saved.get("device_type") == device.type:
            return saved["precision"]
    return resolve_precision(config.trainer.precision, device)


def _build_splits(
    config: TrainConfig, precision: str, run_dir: Path
) -> tuple[ValidatedOCRDataset, ValidatedOCRDataset]:
    """Returns the audited data sets of training and validation."""
    draw_if_synthetic(config)
    config = config.model_copy(update={"pipeline": resolve_pipeline(config.pipeline, precision)})
    train_set, val_set = (
        build_dataset(
            config.datasets.split(name), config, training=name == "train", report_path=run_dir / f"audit_{name}.json"
        )
        for name in ("train", "val")
    )
    return train_set, val_set


def _fit(trainer: lightning.Trainer, module: DBNetModule, data: DBNetDataModule, summary: RunSummary) -> None:
    """Trains, from the checkpoint of `resume` if there is one. A run stopped before its first validation is validated now."""
    # Lightning asks for val/hmean after epochs without validation too, when there is none yet.
    warnings.filterwarnings("ignore", message="`ModelCheckpoint\\(monitor='val/hmean'\\)` could not find")
    try:
        trainer.fit(module, datamodule=data, ckpt_path=module.config.resume, weights_only=True)
    except Exception:
        summary.write()
        raise
    finally:  # Lightning skips the teardown when a run ends with an error
        module.teardown("fit")
        data.teardown("fit")
    if summary.summary["hmean"] is None:
        trainer.validate(module, datamodule=data, verbose=False)
        summary.write()


def _log_network(module: DBNetModule, precision: str, device: str) -> None:
    config = module.config
    log.info(
        "%s with %s, %.1f M parameters, %s, loader=%s, on %s",
        "DBNet++" if config.model.adaptive_fusion else "DBNet",
        config.model.backbone.name,
        sum(parameter.numel() for parameter in module.model.parameters()) / 1e6,
        precision,
        config.loader,
        device,
    )


def _log_result(summary: dict[str, Any], seconds: float) -> None:
    if summary["hmean"] is not None:
        log.info(
            "best validation hmean %.4f (precision %.4f, recall %.4f) after epoch %d; %.0f s in total",
            *(summary[name] for name in ("hmean", "precision", "recall")),
            summary["best_epoch"] + 1,
            seconds,
        )
