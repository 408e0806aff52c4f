"""Ends a run whose loss or weights are NaN or infinite, before they reach a checkpoint."""

import math
from pathlib import Path
from typing import Any, NamedTuple

import lightning
import numpy as np
import numpy.typing as npt
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from ocr.errors import DivergedError
from ocr.file_names import shown
from ocr.losses.db_loss import DBLosses
from ocr.training.host_copy import HostCopy
from ocr.training.trainer_parts import train_loader

_NUM_SHOWN = 16
"""Largest number of file names in a message."""


class _Step(NamedTuple):
    """A training batch whose losses have not been looked at."""

    step: int
    epoch: int
    learning_rate: float | Tensor
    indices: npt.NDArray[np.int64]
    """(B,) positions of its images in the manifest."""
    losses: Tensor
    """(4,) float32 on the device, in the order of `DBLosses`."""


class FiniteLosses(Callback):
    """Looks at the losses of all batches every few steps, and before each checkpoint and validation.

    The losses are copied to the host beside a step's other work and looked at after the following step, so that no step waits for
    the device. A checkpoint is written only if all losses so far and all weights are finite.

    Args:
        every_n_steps: optimizer steps from one look to the next.
        checkpoints: folder of last.ckpt and best.ckpt, for the message.

    Raises:
        DivergedError: from each hook, if a loss or a weight is NaN or infinite.
    """

    def __init__(self, every_n_steps: int, checkpoints: Path) -> None:
        self._every_n_steps = every_n_steps
        self._checkpoints = checkpoints
        self._learning_rate: float | Tensor = math.nan
        self._pending: list[_Step] = []
        self._copying: tuple[list[_Step], HostCopy] | None = None

    def on_train_batch_start(self, trainer: lightning.Trainer, *args: Any) -> None:
        self._learning_rate = trainer.optimizers[0].param_groups[0]["lr"]

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._look_at_copy(trainer)
        self._pending.append(
            _Step(
                trainer.global_step,
                trainer.current_epoch,
                self._learning_rate,
                batch.samples.indices,
                outputs["losses"],
            )
        )
        if trainer.global_step % self._every_n_steps == 0:
            self._start_copy()

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._look_at_all(trainer)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._look_at_all(trainer)

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._look_at_all(trainer)
        weights = {name: value for name, value in pl_module.state_dict().items() if value.is_floating_point()}
        is_finite = torch.stack([value.isfinite().all() for value in weights.values()]).cpu()
        if not is_finite.all():
            first = list(weights)[int(is_finite.int().argmin())]
            raise DivergedError(
                f"after step {trainer.global_step}: {int((~is_finite).sum())} of {len(weights)} weights hold NaN or infinity, "
                f"first {first}. {self._advice()}"
            )

    def _start_copy(self) -> None:
        if self._pending:
            steps, self._pending = self._pending, []
            self._copying = steps, HostCopy(torch.stack([step.losses for step in steps]))

    def _look_at_all(self, trainer: lightning.Trainer) -> None:
        self._look_at_copy(trainer)
        self._start_copy()
        self._look_at_copy(trainer)

    def _look_at_copy(self, trainer: lightning.Trainer) -> None:
        if self._copying is None:
            return
        (steps, copy), self._copying = self._copying, None
        losses = copy.wait()
        is_bad = ~losses.isfinite().all(dim=1)
        if is_bad.any():
            first = int(is_bad.int().argmax())
            raise DivergedError(self._message(trainer, steps[first], losses[first]))

    def _message(self, trainer: lightning.Trainer, step: _Step, losses: Tensor) -> str:
        values = ", ".join(f"{name} {value:g}" for name, value in zip(DBLosses._fields, losses.tolist(), strict=True))
        manifest = train_loader(trainer).dataset.manifest
        names = [shown(manifest.filenames[index]) for index in step.indices[:_NUM_SHOWN]]
        more = f" and {len(step.indices) - _NUM_SHOWN} more" if len(step.indices) > _NUM_SHOWN else ""
        return (
            f"step {step.step} (epoch {step.epoch + 1}): the loss is not finite: {values}; learning rate "
            f"{float(step.learning_rate):g}; images {', '.join(names)}{more}. {self._advice()}"
        )

    def _advice(self) -> str:
        good = [path for name in ("last.ckpt", "best.ckpt") if (path := self._checkpoints / name).is_file()]
        where = f"Last good checkpoint: {good[0]}" if good else "There is no checkpoint yet"
        return (
            "Look at the images and their annotations, and try a lower optimizer.lr, a smaller trainer.gradient_clip_val or "
            f"trainer.precision=32-true. {where}"
        )
