"""Lightning's trainer, with the callbacks and loggers of a run."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

from ocr.config import LoggerConfig, TrainConfig
from ocr.training.callbacks.checkpoints import BestCheckpoint
from ocr.training.callbacks.last_epoch import ValidateLastEpoch
from ocr.training.callbacks.learning_rates import LearningRates
from ocr.training.callbacks.losses import LossLog
from ocr.training.callbacks.moving_average import MovingAverage
from ocr.training.callbacks.pictures import DetectionPictures
from ocr.training.callbacks.progress_bar import ProgressBar

PASSED_ON = (
    "accumulate_grad_batches",
    "benchmark",
    "check_val_every_n_epoch",
    "fast_dev_run",
    "gradient_clip_val",
    "limit_train_batches",
    "limit_val_batches",
    "log_every_n_steps",
    "max_epochs",
    "max_time",
    "num_sanity_val_steps",
    "strategy",
)
"""Keys of the section `trainer` that Lightning's Trainer takes as they are."""


def build_trainer(
    config: TrainConfig, device: torch.device, precision: str, run_dir: Path, callbacks: Sequence[Callback]
) -> lightning.Trainer:
    """Returns the trainer of a run, with `callbacks` among those that every run has."""
    settings = config.trainer
    loggers = build_loggers(config.logger, run_dir, config.exp_name)
    interactive = sys.stderr.isatty()
    losses = LossLog()
    return lightning.Trainer(
        **{name: getattr(settings, name) for name in PASSED_ON},
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=settings.devices if device.type == "cuda" or settings.devices != "auto" else 1,
        precision=precision,  # type: ignore[arg-type]
        deterministic="warn" if settings.deterministic else None,
        use_distributed_sampler=False,  # the epoch plan shards
        callbacks=[
            *build_checkpoints(run_dir / "checkpoints"),
            ValidateLastEpoch(),
            losses,  # before the callbacks that read its means at the end of an epoch
            *callbacks,
            DetectionPictures(run_dir, config.logger.num_pictures),
            *([LearningRates()] if loggers else []),
            *([MovingAverage(settings.ema_decay)] if settings.ema_decay is not None else []),
            *([ProgressBar(losses)] if interactive else []),
        ],
        logger=loggers,
        enable_progress_bar=interactive,
        enable_model_summary=False,
    )


def build_checkpoints(folder: Path) -> list[ModelCheckpoint]:
    """Returns the callbacks that write best.ckpt and last.ckpt, both at the end of an epoch."""
    # A run resumed from a checkpoint within an epoch, after its validation, would train nothing in the rest of it.
    at_epoch_end: dict[str, Any] = {"enable_version_counter": False, "save_on_train_epoch_end": True}
    return [
        BestCheckpoint(folder, filename="best", monitor="val/hmean", mode="max", **at_epoch_end),
        ModelCheckpoint(folder, filename="last", **at_epoch_end),
    ]


def build_loggers(config: LoggerConfig, run_dir: Path, exp_name: str) -> list[Logger]:
    """Returns the enabled ones of TensorBoard, metrics.csv and Weights & Biases.

    Raises:
        ModuleNotFoundError: wandb is enabled but not installed.
    """
    loggers: list[Logger] = []
    if config.tensorboard:
        loggers.append(TensorBoardLogger(run_dir, name="tensorboard", version=""))
    if config.csv:
        loggers.append(CSVLogger(run_dir, name="", version=""))
    if config.wandb.enabled:
        try:
            from lightning.pytorch.loggers import WandbLogger

            loggers.append(WandbLogger(name=exp_name, project=config.wandb.project, save_dir=run_dir))
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError("logger.wandb.enabled=true needs the extra: uv sync --extra wandb") from error
    return loggers
