"""No operation of a training step makes the host wait for the device

A real run of the trainer is watched without a gap from one step to the next: the loader's next batch, forward pass, loss, backward
pass, clipping, optimizer, schedule, callbacks and logging. Only the end of an epoch and its validation are left out. On a CPU,
where nothing can wait, ForbidHostSync finds the operations that would, in all but the optimizer's own step.
"""

import re
import traceback
import warnings
from collections import Counter
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning
import pytest
import torch

from ocr.training.fit import train
from ocr.training.host_sync import ForbidHostSync

UNWATCHED_STEPS = 3
"""The first steps allocate memory and the optimizer's state, and let cuDNN choose its algorithms."""
SYNC_MESSAGE = "called a synchronizing CUDA operation"
ROOT = str(Path(__file__).resolve().parents[2])
WATCHING = ("in _on_warning", "in __torch_dispatch__", "in _showwarnmsg")
"""Ends of the first lines of the stack frames that belong to this watcher."""
HOST_READERS = ("in _look_at_copy",)
"""Functions that read losses which a HostCopy has brought to the host. On a CPU these cannot be told from losses on the device."""


class WatchSyncs(lightning.Callback):
    """Counts host syncs by the line of this project that caused them."""

    def __init__(self, on_gpu: bool) -> None:
        self.num_steps = 0
        self.places: Counter[str] = Counter()
        self._on_gpu = on_gpu
        self._watched: ExitStack | None = None

    def on_train_batch_start(self, trainer: lightning.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step >= UNWATCHED_STEPS:
            self.num_steps += 1
            self._begin()

    def on_before_optimizer_step(self, trainer: lightning.Trainer, pl_module: Any, optimizer: Any) -> None:
        if not self._on_gpu:  # a CPU optimizer keeps its step count on the host, which looks like a sync
            self.end()

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        if trainer.is_last_batch or trainer.should_stop:
            self.end()
        elif self.num_steps:
            self._begin()

    def on_train_end(self, *_: Any) -> None:
        self.end()

    def on_exception(self, *_: Any) -> None:
        self.end()

    def _begin(self) -> None:
        if self._watched is None:
            self._watched = ExitStack()
            self._watched.enter_context(self._cuda_syncs() if self._on_gpu else ForbidHostSync(self._note))

    def end(self) -> None:
        """Stops watching until the next step."""
        if self._watched is not None:
            self._watched.close()
            self._watched = None

    def _cuda_syncs(self) -> AbstractContextManager[Any]:
        stack = ExitStack()
        torch.cuda.set_sync_debug_mode("warn")
        stack.callback(torch.cuda.set_sync_debug_mode, "default")
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("always")
        warnings.showwarning = self._on_warning  # catch_warnings restores it
        return stack

    def _on_warning(self, message: Warning | str, *_: Any) -> None:
        if SYNC_MESSAGE in str(message):
            self._note("sync", traceback.format_stack())

    def _note(self, name: str, stack: list[str]) -> None:
        if not self._on_gpu and any(reader in frame for frame in stack for reader in HOST_READERS):
            return
        self.places[f"{name}: {place_of(stack)}"] += 1


def place_of(stack: list[str]) -> str:
    """Returns the innermost frame of this project, and the innermost frame of all if it is another one."""
    frames = [frame.strip().splitlines()[0] for frame in stack]
    frames = [frame for frame in frames if not frame.endswith(WATCHING)]
    ours = [frame for frame in frames if ROOT in frame and "site-packages" not in frame and "/.venv/" not in frame]
    innermost = frames[-1] if frames else "unknown"
    return f"{ours[-1]} ... {innermost}" if ours and ours[-1] != innermost else innermost


class StopAfter(lightning.Callback):
    """Ends the run after a number of steps."""

    def __init__(self, num_steps: int) -> None:
        self._num_steps = num_steps

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        if trainer.global_step >= self._num_steps:
            trainer.should_stop = True


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_a_training_step_does_not_wait(precision, training_config, on_cpu, tmp_path, record):
    if on_cpu != (precision == "32-true"):
        pytest.skip("32-true is watched on the CPU, the mixed precisions on a GPU")
    config = training_config(
        f"trainer.precision={precision}",
        "trainer.max_epochs=1000",
        "trainer.val_loss=false",
        "trainer.limit_val_batches=1",
        "trainer.check_val_every_n_epoch=1000",
        "logger.tensorboard=false",
    )
    watch = WatchSyncs(on_gpu=not on_cpu)
    train(config, tmp_path, callbacks=[StopAfter(6 if on_cpu else 40), watch])
    record("steps watched", watch.num_steps, at_least=1)
    # In 16-mixed the gradient scaler reads its overflow flag in each step.
    record("host syncs", watch.places.total(), at_most=None if precision == "16-mixed" else 0)
    for place, count in watch.places.items():
        record(f"syncs at {place}", count)


def watched(step: int, action: Any) -> WatchSyncs:
    watch = WatchSyncs(on_gpu=False)
    watch.on_train_batch_start(SimpleNamespace(global_step=step), None, None, 0)
    action()
    watch.end()
    return watch


def test_a_sync_is_counted_with_the_line_that_caused_it():
    watch = watched(UNWATCHED_STEPS, lambda: torch.ones(3).sum().item())
    assert watch.num_steps == 1
    ((place, count),) = watch.places.items()
    assert count == 1
    assert place.startswith("_local_scalar_dense: ")
    assert re.search(rf'{__file__}", line \d+, in <lambda>', place)


def test_a_sync_between_two_steps_is_counted():
    def logs_a_number_and_takes_the_next_batch() -> None:
        torch.ones(3).sum().item()
        next(map(torch.Tensor.tolist, [torch.ones(3).nonzero()]))

    watch = WatchSyncs(on_gpu=False)
    trainer = SimpleNamespace(global_step=UNWATCHED_STEPS, is_last_batch=False, should_stop=False)
    watch.on_train_batch_start(trainer, None, None, 0)
    watch.on_before_optimizer_step(trainer, None, None)
    watch.on_train_batch_end(trainer)
    logs_a_number_and_takes_the_next_batch()
    watch.end()
    assert {place.split(":")[0] for place in watch.places} >= {"_local_scalar_dense", "nonzero"}


def test_the_end_of_an_epoch_is_not_watched():
    watch = WatchSyncs(on_gpu=False)
    trainer = SimpleNamespace(global_step=UNWATCHED_STEPS, is_last_batch=True, should_stop=False)
    watch.on_train_batch_start(trainer, None, None, 0)
    watch.on_train_batch_end(trainer)
    torch.ones(3).sum().item()
    assert watch.places == {}


def test_operations_without_a_sync_and_the_first_steps_are_not_counted():
    assert watched(UNWATCHED_STEPS, lambda: torch.ones(3).sum()).places == {}
    assert watched(UNWATCHED_STEPS - 1, lambda: torch.ones(3).sum().item()).num_steps == 0
