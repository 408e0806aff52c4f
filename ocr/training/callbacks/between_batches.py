"""Ends a prediction between two batches after a signal."""

from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

from ocr.training.interruption import RunStopped, StopSignals
from ocr.training.trainer_parts import dbnet_module


class StopBetweenBatches(Callback):
    """Ends a prediction after the batch in which a signal came, when the results of that batch are written.

    Raises:
        RunStopped: in `on_predict_batch_end`.
    """

    def __init__(self, signals: StopSignals) -> None:
        self._signals = signals

    def on_predict_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *args: Any
    ) -> None:
        if self._signals.received is not None:
            dbnet_module(pl_module).evaluator.finish()
            raise RunStopped(self._signals.received)
