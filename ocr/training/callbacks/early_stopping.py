"""Ends a run whose validation score rises no more."""

import logging
from collections.abc import Mapping
from typing import Any

import lightning
from lightning.pytorch.callbacks import EarlyStopping

from ocr.config import EarlyStoppingConfig
from ocr.training.ranks import is_first_rank

log = logging.getLogger(__name__)


class StopWithoutProgress(EarlyStopping):
    """Ends the run after `patience` validations in a row without a better val/hmean.

    A resumed run goes on counting, and has the patience of its own settings.
    """

    state_key = "StopWithoutProgress"

    def __init__(self, patience: int, min_delta: float) -> None:
        super().__init__("val/hmean", min_delta, patience, mode="max", check_on_train_epoch_end=False)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        patience = self.patience
        super().load_state_dict(state_dict)
        self.patience = patience
        self.stopped_epoch = 0  # the earlier run stopped there; this one goes on

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if self.stopped_epoch and is_first_rank():
            log.info(
                "stopped early, after epoch %d of %s: no better val/hmean in %d validation%s "
                "(trainer.early_stopping.patience=%d)",
                self.stopped_epoch + 1,
                trainer.max_epochs,
                self.wait_count,
                "s" if self.wait_count > 1 else "",
                self.patience,
            )


def has_stopped(callbacks: Mapping[str, Any], settings: EarlyStoppingConfig) -> bool:
    """Returns whether a checkpoint's run has ended early, also by these settings.

    Args:
        callbacks: states of the checkpoint's callbacks.
    """
    state = callbacks.get(StopWithoutProgress.state_key)
    if state is None or settings.patience is None:
        return False
    return bool(state["stopped_epoch"]) and state["wait_count"] >= settings.patience
