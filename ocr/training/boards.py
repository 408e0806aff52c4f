"""Pictures, settings and figures of the machine: what goes to TensorBoard and Weights & Biases, and not to metrics.csv."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import lightning
import numpy as np
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from PIL import Image

from ocr.config import WandbConfig
from ocr.training.metrics_file import MetricsFile

WANDB_ID_NAME = "wandb_id.txt"
"""File of a run's folder with the id of its run on Weights & Biases."""


def boards_of(trainer: lightning.Trainer) -> list[Logger]:
    """Returns the trainer's loggers that show pictures."""
    return [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger | WandbLogger)]


def show_pictures(
    boards: Sequence[Logger], name: str, pictures: Sequence[Image.Image], captions: Sequence[str], step: int
) -> None:
    """Shows pictures on the boards as NAME_1, NAME_2 ..., with captions on Weights & Biases.

    Args:
        step: optimizer steps of the run so far.
    """
    for board in boards:
        for number, (picture, caption) in enumerate(zip(pictures, captions, strict=True), start=1):
            if isinstance(board, WandbLogger):  # a list under one name needs pictures of one size
                board.log_image(f"{name}_{number}", [picture], step=step, caption=[caption])
            elif isinstance(board, TensorBoardLogger):
                board.experiment.add_image(f"{name}_{number}", np.asarray(picture), step, dataformats="HWC")


def log_figures(trainer: lightning.Trainer, figures: Mapping[str, float]) -> None:
    """Logs scalars to all loggers but metrics.csv, whose lines are the same in each run of a seed."""
    for logger in trainer.loggers:
        if not isinstance(logger, MetricsFile):
            logger.log_metrics(dict(figures), step=trainer.global_step)


def wandb_arguments(config: WandbConfig, run_dir: Path, exp_name: str, first_step: int) -> dict[str, Any]:
    """Returns the arguments of Lightning's WandbLogger.

    A run that continues in its own folder continues its run on Weights & Biases, whose id the folder holds.

    Args:
        first_step: step at which the run continues in its own folder; 0: a new run.
    """
    path = run_dir / WANDB_ID_NAME
    run_id = config.id
    if run_id is None:
        run_id = path.read_text().strip() if first_step and path.is_file() else uuid4().hex[:8]
    arguments = {"name": exp_name, "project": config.project, "save_dir": run_dir, "id": run_id, "resume": "allow"}
    arguments |= {"offline": config.offline, "entity": config.entity, "tags": list(config.tags) or None}
    return arguments
