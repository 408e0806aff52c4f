"""A real run of the trainer, watched for operations that make the host wait for the device.

From the start of each batch to its end: forward, loss, backward, clipping, optimizer, schedule. On a CPU, where nothing can wait,
from the start of the batch to the end of the backward pass, for the operations that would.
"""

import traceback
import warnings
from collections import Counter
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import lightning
import torch

from benchmarks.gpu_check.figures import Figures, Keep
from benchmarks.gpu_check.images import run_folder, training_config
from benchmarks.gpu_check.settings import CheckSettings
from ocr.training.fit import train
from ocr.training.host_sync import ForbidHostSync

FIRST_STEPS = 3
"""Not counted: the allocator, cuDNN and the optimizer's state are made in them."""
SYNC_MESSAGE = "called a synchronizing CUDA operation"
ROOT = str(Path(__file__).resolve().parents[2])


class WatchSyncs(lightning.Callback):
    """Counts host syncs by the line of this project that caused them."""

    def __init__(self, on_gpu: bool) -> None:
        self.num_steps = 0
        self.places: Counter[str] = Counter()
        self._on_gpu = on_gpu
        self._watched: ExitStack | None = None

    def on_train_batch_start(self, trainer: lightning.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step >= FIRST_STEPS:
            self.num_steps += 1
            self._watched = ExitStack()
            self._watched.enter_context(self._cuda_syncs() if self._on_gpu else ForbidHostSync(self._note))

    def on_before_optimizer_step(self, trainer: lightning.Trainer, pl_module: Any, optimizer: Any) -> None:
        if not self._on_gpu:  # an optimizer keeps its number of steps on the host, which looks like a wait there
            self._end()

    def on_train_batch_end(self, *_: Any) -> None:
        self._end()

    def _end(self) -> None:
        if self._watched is not None:
            self._watched.close()
            self._watched = None

    def _cuda_syncs(self) -> AbstractContextManager[Any]:
        stack = ExitStack()
        torch.cuda.set_sync_debug_mode("warn")
        stack.callback(torch.cuda.set_sync_debug_mode, "default")
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("always")
        warnings.showwarning = self._on_warning  # type: ignore[assignment]  # given back by catch_warnings
        return stack

    def _on_warning(self, message: Warning | str, *_: Any) -> None:
        if SYNC_MESSAGE in str(message):
            self._note("sync", traceback.format_stack())

    def _note(self, name: str, stack: list[str]) -> None:
        self.places[f"{name}: {place_of(stack)}"] += 1


def place_of(stack: list[str]) -> str:
    """The innermost frame of this project that is not the watching itself, or else of anyone."""
    frames = [frame.strip().splitlines()[0] for frame in stack]
    others = [frame for frame in frames if __file__ not in frame and "ocr/training/host_sync.py" not in frame]
    ours = [frame for frame in others if ROOT in frame and "site-packages" not in frame and "/.venv/" not in frame]
    innermost = others[-1] if others else "unknown"
    return f"{ours[-1]} ... {innermost}" if ours and ours[-1] != innermost else innermost


def measure(settings: CheckSettings, keep: Keep) -> None:
    precisions = ["32-true"] if settings.cpu else ["bf16-mixed", "16-mixed"]
    runs: list[Figures] = []
    for precision in precisions:
        watch = WatchSyncs(on_gpu=not settings.cpu)
        num_steps = 6 if settings.cpu else 40
        config = training_config(
            settings,
            f"trainer.precision={precision}",
            "trainer.max_epochs=1000",
            "trainer.val_loss=false",
            "trainer.limit_val_batches=1",
            "trainer.check_val_every_n_epoch=1000",
            "logger.tensorboard=false",
        )
        train(config, run_folder(settings, f"host_sync_{precision}"), callbacks=[watch, _StopAfter(num_steps)])
        runs.append({"precision": precision, "steps": watch.num_steps, "syncs": dict(watch.places)})
        keep({"first_steps": FIRST_STEPS, "runs": runs})


class _StopAfter(lightning.Callback):
    def __init__(self, num_steps: int) -> None:
        self._num_steps = num_steps

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        if trainer.global_step >= self._num_steps:
            trainer.should_stop = True
