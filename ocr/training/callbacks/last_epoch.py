"""Validation of the last epoch."""

import lightning
from lightning.pytorch.callbacks import Callback


class ValidateLastEpoch(Callback):
    """Validates the last epoch whatever check_val_every_n_epoch is, so that every run ends with a score."""

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        # A run resumed in the middle of its last epoch gets no on_train_epoch_start.
        self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if trainer.max_epochs is not None and trainer.current_epoch + 1 == trainer.max_epochs:
            trainer.check_val_every_n_epoch = 1
