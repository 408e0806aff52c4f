"""The learning rates of the parameter groups."""

from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

from ocr.training.trainer_parts import log_scalars


class LearningRates(Callback):
    """Logs lr-{optimizer}/pg{group} every few steps.

    Lightning's LearningRateMonitor logs the same numbers but also copies them to the device, which waits for it.

    Args:
        every_n_steps: optimizer steps from one logged step to the next.
    """

    def __init__(self, every_n_steps: int) -> None:
        self._every_n_steps = every_n_steps
        self._last_step: int | None = None

    def on_train_batch_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        step = trainer.global_step
        if ((step + 1) % self._every_n_steps != 0 and not trainer.should_stop) or step == self._last_step:
            return  # the second reason: gradients accumulate over several batches of one step
        self._last_step = step
        rates = {
            f"lr-{type(optimizer).__name__}/pg{number}": group["lr"]
            for optimizer in trainer.optimizers
            for number, group in enumerate(optimizer.param_groups, start=1)
        }
        log_scalars(trainer, rates)
