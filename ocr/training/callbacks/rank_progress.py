"""Tells the other ranks which batch this one has begun."""

from collections.abc import Callable
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback


class RankProgress(Callback):
    """Notes each batch when its data have come and its computation begins: a rank whose data do not come stays behind.

    Args:
        note: is given the batch in words.
    """

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note = note

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._note(f"training batch {batch_idx + 1} of epoch {trainer.current_epoch + 1}")

    def on_validation_batch_start(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._note(f"validation batch {batch_idx + 1} of epoch {trainer.current_epoch + 1}")
