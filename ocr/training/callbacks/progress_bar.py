"""The progress bar in a terminal."""

import time
from typing import Any

import lightning
from lightning.pytorch.callbacks import RichProgressBar

from ocr.loaders.loader import BatchLoader

SECONDS_BETWEEN_READS = 0.5
"""Lightning asks for the figures after each batch, but reading the loss waits for the device."""


class ProgressBar(RichProgressBar):
    """Lightning's progress bar with the loss, hmean, and the share of the epoch spent waiting for data."""

    def __init__(self) -> None:
        super().__init__(refresh_rate=5)
        self._epoch_started = time.perf_counter()
        self._shown: dict[str, Any] = {}
        self._shown_at = 0.0

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        super().on_train_epoch_start(trainer, pl_module)
        self._epoch_started = time.perf_counter()

    def get_metrics(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> dict[str, Any]:
        now = time.perf_counter()
        if now - self._shown_at < SECONDS_BETWEEN_READS:
            return self._shown
        metrics: dict[str, Any] = {}
        for shown, name in (("loss", "train/total_loss"), ("hmean", "val/hmean")):
            if name in trainer.callback_metrics:
                metrics[shown] = f"{trainer.callback_metrics[name].item():.3f}"
        loader = trainer.train_dataloader
        if isinstance(loader, BatchLoader):
            metrics["waiting"] = f"{loader.wait_seconds / max(now - self._epoch_started, 1e-9):.0%}"
        self._shown, self._shown_at = metrics, now
        return metrics
