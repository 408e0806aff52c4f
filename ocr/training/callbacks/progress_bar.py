"""The progress bars in a terminal. They leave nothing behind: the log has their figures."""

import time
from typing import Any

import lightning
from lightning.pytorch.callbacks import RichProgressBar

from ocr.loaders.loader import BatchLoader
from ocr.training.callbacks.losses import LossLog
from ocr.training.host_copy import HostCopy

SECONDS_BETWEEN_READS = 0.5
"""Lightning asks for the figures after each batch. Each reading of the loss is a copy from the device."""


class _VanishingBar(RichProgressBar):
    """Lightning's progress bar, which disappears from the terminal when it ends."""

    def _init_progress(self, trainer: lightning.Trainer) -> None:
        super()._init_progress(trainer)
        if self.progress is not None:
            self.progress.live.transient = True


class InferenceBar(_VanishingBar):
    """The progress bar of an evaluation or a prediction.

    Args:
        name: what runs, such as "evaluation".
        first_batch: batches that an interrupted pass has done; they count as done.
    """

    def __init__(self, name: str, first_batch: int) -> None:
        super().__init__()
        self._name, self._first_batch = name, first_batch

    @property
    def predict_description(self) -> str:
        return self._name.capitalize()

    def on_predict_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        super().on_predict_batch_end(trainer, pl_module, outputs, batch, self._first_batch + batch_idx, dataloader_idx)


class ProgressBar(_VanishingBar):
    """The progress bar of a training, with the loss, hmean, and the share of the epoch spent waiting for data.

    The loss is that of the last reading but one, whose copy from the device has arrived.
    """

    def __init__(self, losses: LossLog) -> None:
        super().__init__(refresh_rate=5)
        self._losses = losses
        self._loss_copy: HostCopy | None = None
        self._hmean: float | None = None
        """Hmean of the last validation, read from the device when it ended."""
        self._epoch_started = time.perf_counter()
        self._shown: dict[str, Any] = {}
        self._shown_at = 0.0

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        super().on_train_epoch_start(trainer, pl_module)
        self._epoch_started = time.perf_counter()

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if "val/hmean" in trainer.callback_metrics:
            self._hmean = float(trainer.callback_metrics["val/hmean"])
        super().on_validation_end(trainer, pl_module)

    def _get_train_description(self, current_epoch: int) -> str:
        """Returns the epoch as the log counts it, from 1. Lightning counts from 0."""
        return f"Epoch {current_epoch + 1}/{self.trainer.max_epochs}".ljust(len(self.validation_description))

    def get_metrics(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> dict[str, Any]:
        now = time.perf_counter()
        if now - self._shown_at < SECONDS_BETWEEN_READS:
            return self._shown
        metrics: dict[str, Any] = {}
        if self._loss_copy is not None:
            metrics["loss"] = f"{self._loss_copy.wait()[0].item():.3f}"
        if self._losses.latest is not None:
            self._loss_copy = HostCopy(self._losses.latest.losses)
        if self._hmean is not None:
            metrics["hmean"] = f"{self._hmean:.3f}"
        loader = trainer.train_dataloader
        if isinstance(loader, BatchLoader):
            metrics["waiting"] = f"{loader.wait_seconds_so_far / max(now - self._epoch_started, 1e-9):.0%}"
        self._shown, self._shown_at = metrics, now
        return metrics
