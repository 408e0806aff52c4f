"""The losses of training steps, read from the device without waiting for it."""

import contextlib
from typing import Any, NamedTuple

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from ocr.errors import StorageError
from ocr.losses.db_loss import DBLosses
from ocr.training.host_copy import HostCopy


class StepLosses(NamedTuple):
    """The losses of one optimizer step; with gradient accumulation, those of its last batch."""

    step: int
    epoch: int
    losses: Tensor
    """(4,) float32 on the device, in the order of `DBLosses`."""


class LossLog(Callback):
    """Logs train/{total,shrink,thresh,binary}_loss_step every few steps, and the means of an epoch as ..._epoch.

    A step adds its losses to a sum on the device. The losses to be logged are copied to the host beside the step's other work and
    logged after the following step, under their own step number. The epoch mean is taken over the images of all ranks.
    `trainer.callback_metrics` holds the numbers logged last, as train/{total,shrink,thresh,binary}_loss.

    The sums are part of a checkpoint, so a run that resumes within an epoch still logs the mean of the whole epoch. A checkpoint
    holds those of rank 0 only: after such a resume they stand for all ranks.

    Args:
        every_n_steps: optimizer steps from one logged step to the next.
    """

    def __init__(self, every_n_steps: int) -> None:
        self._every_n_steps = every_n_steps
        self._sums: Tensor | None = None
        """(4,) float32: sum over the epoch's steps of losses times images. None: no step yet."""
        self._num_images = 0
        self._num_steps = 0
        """Optimizer steps of the run so far."""
        self.latest: StepLosses | None = None
        """The last step of this run. None: no step yet."""
        self._copied_step = -1
        """The last step whose losses were copied to the host."""
        self._copying: tuple[StepLosses, HostCopy] | None = None

    def state_dict(self) -> dict[str, Any]:
        return {"num_images": self._num_images, "sums": None if self._sums is None else self._sums.tolist()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        sums = state_dict["sums"]
        self._num_images, self._sums = state_dict["num_images"], None if sums is None else torch.tensor(sums)

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._num_steps = trainer.global_step
        if self._sums is not None:
            self._sums = self._sums.to(pl_module.device)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        losses, num_images = outputs["losses"], len(batch.images)
        if self._sums is None:
            self._sums = torch.zeros_like(losses)
        self._sums += losses * num_images
        self._num_images += num_images
        self._log_copied(trainer)
        if trainer.global_step == self._num_steps:
            return  # gradients still accumulate
        self._num_steps = trainer.global_step
        self.latest = StepLosses(self._num_steps - 1, trainer.current_epoch, losses)
        if self._num_steps % self._every_n_steps == 0:
            self._start_copy(self.latest)

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._log_copied(trainer)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._log_copied(trainer)
        if trainer.should_stop:
            self._log_latest(trainer)
        if self._sums is not None:
            self._log_means(trainer, pl_module, self._sums)
        self._sums, self._num_images = None, 0

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._log_copied(trainer)  # a run that resumes from this checkpoint does not repeat the step

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        with contextlib.suppress(RuntimeError, StorageError):  # a failed device or a full disk: `exception` says so
            self._log_copied(trainer)
            self._log_latest(trainer)

    def _log_latest(self, trainer: lightning.Trainer) -> None:
        """Logs the losses of the last step, unless that has been done."""
        if self.latest is not None and self.latest.step > self._copied_step:
            self._start_copy(self.latest)
            self._log_copied(trainer)

    def _start_copy(self, latest: StepLosses) -> None:
        self._copying, self._copied_step = (latest, HostCopy(latest.losses)), latest.step

    def _log_copied(self, trainer: lightning.Trainer) -> None:
        """Logs the losses whose copy to the host was started, if there are any."""
        if self._copying is None:
            return
        (step, epoch, _), copy = self._copying
        self._copying = None
        losses = _by_name(copy.wait())
        trainer.callback_metrics.update(losses)
        row = {f"{name}_step": float(loss) for name, loss in losses.items()} | {"epoch": epoch}
        for logger in trainer.loggers:
            logger.log_metrics(row, step=step)
            logger.save()

    def _log_means(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, sums: Tensor) -> None:
        num_images = torch.full_like(sums[:1], self._num_images)
        *summed, num_images = trainer.strategy.reduce(torch.cat([sums, num_images]), reduce_op="sum").cpu()
        means = _by_name(torch.stack(summed) / num_images)
        pl_module.log_dict({f"{name}_epoch": mean for name, mean in means.items()})
        trainer.callback_metrics.update(means)


def _by_name(losses: Tensor) -> dict[str, Tensor]:
    return {f"train/{name}_loss": loss for name, loss in zip(DBLosses._fields, losses, strict=True)}
