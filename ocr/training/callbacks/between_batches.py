"""What a prediction does between two batches: it logs how far it is, and ends after a signal."""

import logging
import sys
import time
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

from ocr.training.interruption import RunStopped, StopSignals
from ocr.training.result_lines import ResultLines
from ocr.training.trainer_parts import dbnet_module

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 30.0


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


class ProgressLines(Callback):
    """Logs the number of images done every 30 seconds where no terminal shows a progress bar.

    Args:
        lines: the results so far.
    """

    def __init__(self, lines: ResultLines) -> None:
        self._lines = lines
        self._num_before = lines.num_done
        self._started = self._logged = time.monotonic()

    def on_predict_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._started = self._logged = time.monotonic()

    def on_predict_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *args: Any
    ) -> None:
        now, num_done = time.monotonic(), self._lines.num_done
        if sys.stderr.isatty() or now - self._logged < SECONDS_BETWEEN_LINES or num_done == self._num_before:
            return
        self._logged = now
        num_left = self._lines.num_images - num_done
        seconds_left = (now - self._started) / (num_done - self._num_before) * num_left
        log.info("%d of %d images done; about %.0f s left", num_done, self._lines.num_images, seconds_left)
