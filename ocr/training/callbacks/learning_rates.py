"""The learning rates of the parameter groups."""

from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback


class LearningRates(Callback):
    """Logs lr-{optimizer}/pg{group} every log_every_n_steps steps.

    Lightning's LearningRateMonitor logs the same numbers but also copies them to the device, which waits for it.
    """

    def on_train_batch_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        if (trainer.global_step + 1) % trainer.log_every_n_steps != 0 and not trainer.should_stop:
            return
        rates = {
            f"lr-{type(optimizer).__name__}/pg{number}": group["lr"]
            for optimizer in trainer.optimizers
            for number, group in enumerate(optimizer.param_groups, start=1)
        }
        for logger in trainer.loggers:
            logger.log_metrics(rates, step=trainer.global_step)
