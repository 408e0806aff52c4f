"""Ends a run whose loss or weights are NaN or infinite, before they reach a checkpoint."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from ocr.errors import DivergedError
from ocr.file_names import shown
from ocr.losses.db_loss import DBLosses
from ocr.training.callbacks.losses import BatchLosses
from ocr.training.run_folder import CHECKPOINTS
from ocr.training.trainer_parts import train_loader

_NUM_SHOWN = 16
"""Largest number of file names in a message."""


class FiniteLosses(Callback):
    """Checks the losses that `LossLog` reads from the device, and all weights before each checkpoint.

    `LossLog` must come before this callback, so that a checkpoint is written only if all losses so far are finite too.

    Args:
        checkpoints: folder of last.ckpt and best.ckpt, for the message.
    """

    def __init__(self, checkpoints: Path) -> None:
        self._checkpoints = checkpoints

    def check(self, trainer: lightning.Trainer, batches: Sequence[BatchLosses], losses: Tensor) -> None:
        """Checks the (N, 4) losses of N batches, on the host.

        Raises:
            DivergedError: one of them is NaN or infinite.
        """
        is_bad = ~losses.isfinite().all(dim=1)
        if is_bad.any():
            first = int(is_bad.int().argmax())
            raise DivergedError(self._message(trainer, batches[first], losses[first]))

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Checks the weights.

        Raises:
            DivergedError: one of them is NaN or infinite.
        """
        weights = {name: value for name, value in pl_module.state_dict().items() if value.is_floating_point()}
        is_finite = torch.stack([value.isfinite().all() for value in weights.values()]).cpu()
        if not is_finite.all():
            first = list(weights)[int(is_finite.int().argmin())]
            raise DivergedError(
                f"after step {trainer.global_step}: {int((~is_finite).sum())} of {len(weights)} weights hold NaN or infinity, "
                f"first {first}. {self._advice(trainer)}"
            )

    def _message(self, trainer: lightning.Trainer, batch: BatchLosses, losses: Tensor) -> str:
        values = ", ".join(f"{name} {value:g}" for name, value in zip(DBLosses._fields, losses.tolist(), strict=True))
        manifest = train_loader(trainer).dataset.manifest
        names = [shown(manifest.filenames[index]) for index in batch.indices[:_NUM_SHOWN]]
        more = f" and {len(batch.indices) - _NUM_SHOWN} more" if len(batch.indices) > _NUM_SHOWN else ""
        return (
            f"step {batch.num_steps} (epoch {batch.epoch + 1}): the loss is not finite: {values}; learning rate "
            f"{float(batch.learning_rate):g}; images {', '.join(names)}{more}. {self._advice(trainer)}"
        )

    def _advice(self, trainer: lightning.Trainer) -> str:
        good = [path for name in CHECKPOINTS if (path := self._checkpoints / name).is_file()]
        where = f"Last good checkpoint: {good[0]}" if good else "There is no checkpoint yet"
        clip = trainer.gradient_clip_val
        remedies = ["a lower optimizer.lr", "gradients clipped by trainer.gradient_clip_val=5"]
        if clip:
            remedies[1] = f"a trainer.gradient_clip_val below {clip:g}"
        if trainer.precision != "32-true":
            remedies.append("trainer.precision=32-true")
        tried = f"{', '.join(remedies[:-1])} or {remedies[-1]}"
        return f"Look at the images and their annotations, and try {tried}. {where}"
