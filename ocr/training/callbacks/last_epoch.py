"""The last epoch: its validation, and its predictions."""

from pathlib import Path

import lightning
from lightning.pytorch.callbacks import Callback

from ocr.datasets.manifest import Manifest
from ocr.predictions import write_predictions
from ocr.training.evaluator import EvaluationResult
from ocr.training.trainer_parts import dbnet_module


class ValidateLastEpoch(Callback):
    """Validates the last epoch whatever check_val_every_n_epoch is, so that every run ends with a score."""

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        # A run resumed in the middle of its last epoch gets no on_train_epoch_start.
        self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if trainer.max_epochs is not None and trainer.current_epoch + 1 == trainer.max_epochs:
            trainer.check_val_every_n_epoch = 1


class LastPredictions(Callback):
    """Writes predictions.json after the validation of the last epoch.

    That is before the last checkpoint, which marks the run as finished: a run killed between them would never write the file.

    Args:
        path: the file.
        manifest: of the validation images.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self._manifest = manifest
        self._written: EvaluationResult | None = None

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        is_last = trainer.max_epochs is not None and trainer.current_epoch + 1 >= trainer.max_epochs
        is_last |= trainer.should_stop  # early stopping comes before this callback
        if trainer.is_global_zero and is_last and not trainer.sanity_checking:
            self.write(dbnet_module(pl_module).evaluation)

    def write(self, evaluation: EvaluationResult) -> None:
        """Writes the detections of a validation, unless the file holds them already."""
        if evaluation is not self._written:
            write_predictions(self.path, self._manifest, evaluation.detections_original)
            self._written = evaluation
