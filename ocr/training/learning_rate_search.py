"""Looks for a learning rate: a short training in which it rises from step to step (Smith 2015, arXiv 1506.01186)."""

import contextlib
import io
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.tuner import Tuner

from ocr.atomic_write import write_durably
from ocr.config import TrainConfig
from ocr.errors import InputError
from ocr.training.datamodule import DBNetDataModule
from ocr.training.module import DBNetModule

log = logging.getLogger(__name__)

LOWEST, HIGHEST = 1e-6, 1.0
"""Learning rates of the first and the last step."""


def settings_of_search(config: TrainConfig) -> TrainConfig:
    """Returns the settings of the run with enough epochs for the steps of the search, and without validations."""
    steps = config.trainer.lr_find_steps or 0
    longer = {"max_epochs": steps * config.trainer.accumulate_grad_batches, "limit_val_batches": 0}
    return config.model_copy(update={"trainer": config.trainer.model_copy(update=longer)})


def search_learning_rate(
    trainer: lightning.Trainer, module: DBNetModule, data: DBNetDataModule, run_dir: Path
) -> dict[str, Any]:
    """Returns the suggested learning rate, as {"lr_suggestion"}, and writes the curve as learning_rates.csv: lr, smoothed loss.

    The suggestion is the rate at which the loss falls fastest. The search ends early where the loss has risen to four times its
    lowest value. All layers have the same rate in it, also with optimizer.layer_decay.

    Raises:
        InputError: the loss has too few points, or never falls.
    """
    steps = module.config.trainer.lr_find_steps or 0
    try:
        with _quiet():
            found = Tuner(trainer).lr_find(
                module, datamodule=data, min_lr=LOWEST, max_lr=HIGHEST, num_training=steps, update_attr=False
            )
    finally:  # Lightning skips the teardown when a run ends before its end
        module.teardown("fit")
        data.teardown("fit")
    if found is None:
        raise InputError("trainer.lr_find_steps needs whole steps; leave trainer.fast_dev_run out")
    rates, losses = found.results["lr"], found.results["loss"]
    path = run_dir / "learning_rates.csv"
    rows = "".join(f"{rate:.6g},{loss:.6g}\n" for rate, loss in zip(rates, losses, strict=False))
    if trainer.is_global_zero:
        write_durably(path, f"lr,loss\n{rows}".encode())
    suggestion = found.suggestion()
    if suggestion is None:
        raise InputError(
            f"trainer.lr_find_steps={steps}: found {len(losses)} losses, too few for a suggestion; give more steps"
        )
    if trainer.is_global_zero:
        log.info("loss at %d learning rates from %.2g to %.2g: %s", len(losses), rates[0], rates[len(losses) - 1], path)
        log.info(
            "the loss falls fastest at %.2g. To train with it, replace trainer.lr_find_steps by:\n  optimizer.lr=%.2g",
            *(suggestion, suggestion),
        )
    return {"lr_suggestion": suggestion}


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps Lightning's notes about its own checkpoint from the log and, without a terminal, its progress bar from stderr."""
    chatty = logging.getLogger("lightning.pytorch.trainer.connectors.checkpoint_connector")
    level = chatty.level
    chatty.setLevel(logging.WARNING)
    bar = contextlib.nullcontext() if sys.stderr.isatty() else contextlib.redirect_stderr(io.StringIO())
    try:
        with bar:
            yield
    finally:
        chatty.setLevel(level)
