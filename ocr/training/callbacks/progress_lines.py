"""Logs the progress of an epoch every half minute where there is no terminal for a bar."""

import logging
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

from ocr.progress import SECONDS_BETWEEN_LINES, Pulse

log = logging.getLogger(__name__)


class ProgressLines(Callback):
    """Logs how many batches of training, validation, evaluation or prediction are done.

    Args:
        seconds: time between two lines.
        inference: what a pass without training is: "evaluation" or "prediction".
        first_batch: batches that an interrupted pass has done; they count as done.
    """

    def __init__(
        self, seconds: float = SECONDS_BETWEEN_LINES, inference: str = "prediction", first_batch: int = 0
    ) -> None:
        self._pulse = Pulse(seconds)
        self._inference, self._first_batch = inference, first_batch

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        epoch = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
        self._log(trainer, f"{epoch}: training", batch_idx, trainer.num_training_batches)

    def on_validation_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if not trainer.sanity_checking:
            self._log(trainer, "validation", batch_idx, sum(trainer.num_val_batches))

    def on_predict_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._log(trainer, self._inference, self._first_batch + batch_idx, sum(trainer.num_predict_batches))

    def _log(self, trainer: lightning.Trainer, what: str, batch_idx: int, total: float) -> None:
        if trainer.is_global_zero and batch_idx + 1 < total and self._pulse.is_due():
            log.info("%s, batch %d of %.0f", what, batch_idx + 1, total)
