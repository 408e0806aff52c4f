"""best.ckpt and last.ckpt."""

import logging
import time
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn

from ocr.config import TrainerConfig
from ocr.training.checkpoint_files import CheckpointFiles, copy_checkpoint
from ocr.training.datamodule import DBNetDataModule
from ocr.training.interruption import Agreement, RunStopped, StopSignals
from ocr.training.ranks import is_first_rank
from ocr.training.resume import DATA_MODULE, steps_of_resumed_epoch

log = logging.getLogger(__name__)

NOTHING, SAVE, TIME_IS_UP, STOP = 0, 1, 2, 100
"""Numbers that the ranks agree on, the more urgent the larger. `STOP` plus the number of a signal."""


class BestCheckpoint(ModelCheckpoint):
    """Keeps best.ckpt: the weights of the best val/hmean at the end of an epoch.

    A resumed run goes on from the best score so far. If it has another folder, best.ckpt is copied there.

    Args:
        folder: of the checkpoints.
        resumed: checkpoint that the run continues from; None: a new run.
    """

    def __init__(self, folder: Path, resumed: Path | None) -> None:
        super().__init__(
            folder,
            filename="best",
            monitor="val/hmean",
            mode="max",
            enable_version_counter=False,
            # A run resumed from a checkpoint within an epoch, after its validation, would train nothing in the rest of it.
            save_on_train_epoch_end=True,
        )
        self._resumed = resumed

    @cached_property
    def state_key(self) -> str:
        """Returns the key of this callback's state in a checkpoint. Lightning reads it for each hook of a step."""
        return super().state_key

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Does nothing: best.ckpt is written at the end of an epoch."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        saved, score = state_dict["best_model_path"], state_dict["best_model_score"]
        if not saved or score is None or self.dirpath is None:
            return
        earlier = Path(saved)
        if not earlier.is_file() and self._resumed is not None:
            earlier = self._resumed.parent / earlier.name  # the folder of the run was moved
        if not earlier.is_file():
            if is_first_rank():
                log.warning(
                    "resume=%s: the best checkpoint so far, with val/hmean %.4f, is neither %s nor %s; best.ckpt will be the best "
                    "of the epochs that follow",
                    self._resumed,
                    score,
                    saved,
                    earlier,
                )
            return
        copied = Path(self.dirpath) / earlier.name
        if copied != earlier and is_first_rank():
            copy_checkpoint(earlier, copied)
        best = {"best_model_path": str(copied), "best_k_models": {str(copied): score}, "dirpath": self.dirpath}
        super().load_state_dict(state_dict | best | {"kth_best_model_path": str(copied)})


class LastCheckpoint(Checkpoint):
    """Keeps last.ckpt: at the end of epochs, inside them by time and by step, and when a signal or the time limit ends the run.

    Each last.ckpt is taken between two optimizer steps, before a validation batch, or at the end of an epoch, so a run that
    resumes from it continues as if it had never stopped. This callback must come after all others: it saves their state.

    Args:
        path: the file.
        settings: when to save, and when to stop.
        files: writes the file beside the training.
        signals: says whether a signal has come.
    """

    def __init__(self, path: Path, settings: TrainerConfig, files: CheckpointFiles, signals: StopSignals) -> None:
        self.path = path
        self.time_is_up = False
        """Whether trainer.max_time ended the run."""
        self._is_due = False
        """Whether the step of save_every_n_steps fell on the last batch of an epoch."""
        self._is_kept = False
        """Whether last.ckpt must stay as it is: the time was up in the middle of this epoch."""
        self._settings, self._files, self._signals = settings, files, signals
        self._agreement: Agreement | None = None
        self._started = self._saved = 0.0
        """Times of the start and of the last save, in seconds of the monotonic clock."""
        self._limit = None if settings.max_time is None else _seconds(settings.max_time)

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._agreement = Agreement(trainer.world_size)
        self._started = self._saved = time.monotonic()

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._signals.defer()

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._files.raise_errors()
        num_done = batch_idx + 1
        is_last = num_done == trainer.num_training_batches
        if num_done % trainer.accumulate_grad_batches and not is_last:
            return  # gradients still accumulate
        steps = self._settings.save_every_n_steps
        self._is_due |= steps is not None and trainer.global_step % steps == 0
        if is_last:
            return  # Lightning would take the epoch for finished; its validation or its end save instead
        agreed = self._agree(trainer)
        if agreed or self._is_due:
            self._save(trainer)
        self._end(trainer, agreed)
        self._is_kept = self.time_is_up

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if self._is_in_epoch(trainer):
            agreed = self._agree(trainer)
            if agreed == SAVE or agreed >= STOP or self._is_due:
                self._save(trainer)
            self._end(trainer, agreed)

    def on_validation_batch_end(self, trainer: lightning.Trainer, *args: Any, **kwargs: Any) -> None:
        if self._is_in_epoch(trainer):
            agreed = self._agree(trainer)
            if agreed >= STOP:
                self._save(trainer)
            self._end(trainer, agreed)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if self._is_kept:
            return
        agreed = self._agree(trainer)
        epoch = trainer.current_epoch + 1
        is_end = epoch == trainer.max_epochs
        is_due = self._is_due or epoch % self._settings.save_every_n_epochs == 0
        if agreed or is_end or is_due or trainer.should_stop:
            self._save(trainer)
        if not is_end:
            self._end(trainer, agreed)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if self._agreement is not None:
            self._agreement.latest()  # leaves no exchange under way
        self._files.finish()

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if trainer.validating:
            # All batches of the epoch are trained. Lightning takes these numbers for a validation under way, and starts it again.
            started = {"ready": 1, "started": 1, "processed": 0, "completed": 0}
            checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"] = {
                "total": started,
                "current": dict(started),
                "is_last_batch": False,
            }

    def on_load_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Fits Lightning's counters to the batches of this run, if the checkpoint is from other ranks or batch sizes."""
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        state, data = checkpoint[DATA_MODULE]["train"], trainer.datamodule  # type: ignore[attr-defined]
        current = progress["current"]
        is_within_epoch = not progress["is_last_batch"] and current["completed"] == current["processed"] - 1
        epochs = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]
        waits_for_validation = progress["is_last_batch"] and epochs["processed"] < epochs["started"]
        is_in_epoch = is_within_epoch or waits_for_validation
        if not is_in_epoch or not isinstance(data, DBNetDataModule) or data.train is None:
            return
        num_done, num_steps = steps_of_resumed_epoch(
            len(data.train), state["samples"], data.config.batch_size, trainer.world_size
        )
        limited = _limited(num_steps, self._settings.limit_train_batches)
        if waits_for_validation:
            current.update(dict.fromkeys(current, limited))
            return
        num_done = min(num_done, limited - 1)
        if num_done != current["ready"]:
            current.update(ready=num_done, started=num_done, processed=num_done, completed=num_done - 1)

    def _is_in_epoch(self, trainer: lightning.Trainer) -> bool:
        """Returns whether this validation belongs to an epoch whose checkpoint may still be written."""
        return trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking and not self._is_kept

    def _agree(self, trainer: lightning.Trainer) -> int:
        """Returns the most urgent number that any rank announced before: at this call for one process, else at the call before.

        All ranks call this at the same points of a run.
        """
        if self._agreement is None:
            raise RuntimeError("the fit has not started")
        if trainer.world_size == 1:
            return self._wanted()
        agreed = self._agreement.latest()
        self._agreement.announce(NOTHING if agreed == SAVE else self._wanted())
        return agreed

    def _end(self, trainer: lightning.Trainer, agreed: int) -> None:
        """Ends the run if the ranks have agreed to."""
        if agreed >= STOP:
            raise RunStopped(agreed - STOP, is_saved=True)
        if agreed == TIME_IS_UP:
            self.time_is_up = trainer.should_stop = True

    def _wanted(self) -> int:
        now = time.monotonic()
        if self._signals.received is not None:
            return STOP + self._signals.received
        if self._limit is not None and not self.time_is_up and now - self._started >= self._limit:
            return TIME_IS_UP
        minutes = self._settings.save_every_minutes
        return SAVE if minutes is not None and now - self._saved >= 60 * minutes else NOTHING

    def _save(self, trainer: lightning.Trainer) -> None:
        if not self._settings.fast_dev_run:
            trainer.save_checkpoint(self.path, weights_only=False)
        self._saved = time.monotonic()
        self._is_due = False


def _limited(num_steps: int, limit: int | float | None) -> int:
    """Returns the steps of an epoch under limit_train_batches: a number, or a share if it is a float."""
    if limit is None:
        return num_steps
    return int(num_steps * limit) if isinstance(limit, float) else min(num_steps, limit)


def _seconds(duration: str) -> float:
    """Returns the seconds of a duration written DD:HH:MM:SS."""
    days, hours, minutes, seconds = map(int, duration.split(":"))
    return timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds).total_seconds()
