"""The losses of training steps, read from the device without waiting for it."""

import contextlib
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import lightning
import numpy as np
import numpy.typing as npt
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from ocr.errors import StorageError
from ocr.losses.db_loss import DBLosses
from ocr.training.host_copy import HostCopy


class BatchLosses(NamedTuple):
    """The losses of one training batch."""

    num_steps: int
    """Optimizer steps of the run after this batch."""
    ends_step: bool
    """Whether the optimizer stepped; with gradient accumulation, only the last batch of a step does so."""
    epoch: int
    learning_rate: float | Tensor
    """Learning rate of the first parameter group in this batch."""
    indices: npt.NDArray[np.int64]
    """(B,) positions of its images in the manifest."""
    losses: Tensor
    """(4,) float32 on the device, in the order of `DBLosses`."""


Check = Callable[[lightning.Trainer, Sequence[BatchLosses], Tensor], None]
"""Looks at N batches and their (N, 4) float32 losses on the host."""


class LossLog(Callback):
    """Logs train/{total,shrink,thresh,binary}_loss_step every few steps, and the means of an epoch as ..._epoch.

    The losses of all batches since the last copy are copied to the host together, every few steps, beside the step's other work.
    After the following batch they are summed, logged under their own step number, and checked. Before each checkpoint and
    validation, and at the end of an epoch, the remaining losses are read at once. The epoch mean is taken over the images of all
    ranks. `trainer.callback_metrics` holds the numbers logged last, as train/{total,shrink,thresh,binary}_loss.

    The sums are part of a checkpoint, so a run that resumes within an epoch still logs the mean of the whole epoch. A checkpoint
    holds those of rank 0 only: after such a resume they stand for all ranks.

    Args:
        every_n_steps: optimizer steps from one copy, and logged step, to the next.
        check: is called with the losses of all batches once they are on the host; it may raise.
    """

    def __init__(self, every_n_steps: int, check: Check | None = None) -> None:
        self._every_n_steps = every_n_steps
        self._check = check
        self._sums: npt.NDArray[np.float32] | None = None
        """(4,) sum over the epoch's batches on the host of losses times images. None: no batch yet."""
        self._num_images = 0
        self._num_steps = 0
        """Optimizer steps of the run so far."""
        self._learning_rate: float | Tensor = math.nan
        self.latest: BatchLosses | None = None
        """The last batch of this run that ended a step. None: no step yet."""
        self._logged_steps = 0
        """Number of the last step whose losses were logged."""
        self._pending: list[BatchLosses] = []
        """Batches whose copy to the host has not been started."""
        self._copying: tuple[list[BatchLosses], HostCopy] | None = None

    def state_dict(self) -> dict[str, Any]:
        unread = [*(self._copying[0] if self._copying else ()), *self._pending]
        sums, num_images = self._sums, self._num_images + sum(len(batch.indices) for batch in unread)
        if unread:
            sums = _with_batches(sums, unread, torch.stack([batch.losses for batch in unread]).cpu())
        return {"num_images": num_images, "sums": None if sums is None else sums.tolist()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        sums = state_dict["sums"]
        self._num_images, self._sums = state_dict["num_images"], None if sums is None else np.array(sums, np.float32)

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._num_steps = trainer.global_step

    def on_train_batch_start(self, trainer: lightning.Trainer, *args: Any) -> None:
        self._learning_rate = trainer.optimizers[0].param_groups[0]["lr"]

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        num_steps = trainer.global_step
        ends_step, self._num_steps = num_steps != self._num_steps, num_steps
        losses = BatchLosses(
            num_steps, ends_step, trainer.current_epoch, self._learning_rate, batch.samples.indices, outputs["losses"]
        )
        self._pending.append(losses)
        if ends_step:
            self.latest = losses
        self._look_at_copy(trainer)
        if ends_step and num_steps % self._every_n_steps == 0:
            self._start_copy()

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._look_at_all(trainer)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._look_at_all(trainer)
        if trainer.should_stop:
            self._log_latest(trainer)
        if self._sums is not None:
            self._log_means(trainer, pl_module, torch.from_numpy(self._sums).to(pl_module.device))
        self._sums, self._num_images = None, 0

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._look_at_all(trainer)  # a run that resumes from this checkpoint does not repeat the steps

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        self._check = None  # `exception` ends the run already
        with contextlib.suppress(RuntimeError, StorageError):  # a failed device or a full disk: `exception` says so
            self._look_at_all(trainer)
            self._log_latest(trainer)

    def _start_copy(self) -> None:
        if self._pending:
            batches, self._pending = self._pending, []
            self._copying = batches, HostCopy(torch.stack([batch.losses for batch in batches]))

    def _look_at_all(self, trainer: lightning.Trainer) -> None:
        self._look_at_copy(trainer)
        self._start_copy()
        self._look_at_copy(trainer)

    def _look_at_copy(self, trainer: lightning.Trainer) -> None:
        """Sums, logs and checks the losses whose copy to the host was started, if there are any."""
        if self._copying is None:
            return
        (batches, copy), self._copying = self._copying, None
        losses = copy.wait()
        self._sums = _with_batches(self._sums, batches, losses)
        self._num_images += sum(len(batch.indices) for batch in batches)
        for batch, of_batch in zip(batches, losses, strict=True):
            if batch.ends_step and batch.num_steps % self._every_n_steps == 0:
                self._log(trainer, batch, of_batch)
        if self._check is not None:
            self._check(trainer, batches, losses)

    def _log_latest(self, trainer: lightning.Trainer) -> None:
        """Logs the losses of the last step, unless that has been done."""
        if self.latest is not None and self.latest.num_steps > self._logged_steps:
            self._log(trainer, self.latest, self.latest.losses.cpu())

    def _log(self, trainer: lightning.Trainer, batch: BatchLosses, losses: Tensor) -> None:
        self._logged_steps = batch.num_steps
        by_name = _by_name(losses)
        trainer.callback_metrics.update(by_name)
        values = zip(by_name, losses.tolist(), strict=True)
        row = {f"{name}_step": value for name, value in values} | {"epoch": batch.epoch}
        for logger in trainer.loggers:
            logger.log_metrics(row, step=batch.num_steps - 1)
            logger.save()

    def _log_means(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, sums: Tensor) -> None:
        num_images = torch.full_like(sums[:1], self._num_images)
        *summed, num_images = trainer.strategy.reduce(torch.cat([sums, num_images]), reduce_op="sum").cpu()
        means = _by_name(torch.stack(summed) / num_images)
        pl_module.log_dict({f"{name}_epoch": mean for name, mean in means.items()})
        trainer.callback_metrics.update(means)


def _by_name(losses: Tensor) -> dict[str, Tensor]:
    return {f"train/{name}_loss": loss for name, loss in zip(DBLosses._fields, losses, strict=True)}


def _with_batches(
    sums: npt.NDArray[np.float32] | None, batches: Sequence[BatchLosses], losses: Tensor
) -> npt.NDArray[np.float32]:
    """Returns the (4,) sums with the (N, 4) losses of batches, times their images, added one after the other."""
    counts = np.array([[len(batch.indices)] for batch in batches], np.float32)
    first = np.zeros((1, losses.shape[1]), np.float32) if sums is None else sums[None]
    return np.cumsum(np.concatenate([first, losses.numpy() * counts]), axis=0)[-1]
