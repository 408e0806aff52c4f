"""Checkpoint files: copied in the thread that trains, written by another one, whole or not there.

training thread   copy to the host | next step | next step | ...
writer thread                      | serialise, write beside the target, fsync, rename
"""

import copy
import os
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import CheckpointIO
from torch import Tensor

from ocr.atomic_write import atomic_file, explained_write
from ocr.errors import StorageError
from ocr.training.run_folder import CHECKPOINTS


class CheckpointFiles(CheckpointIO):
    """Reads and writes checkpoint files for Lightning: one write at a time, beside the training.

    A save returns once the state is copied to the host. It waits first for an earlier write of the same file. An error of a write
    is raised by the next call of any method, at the latest by `finish`.

    Raises:
        StorageError: a file cannot be written. The earlier file of that name is unchanged.
    """

    def __init__(self) -> None:
        self._writer: ThreadPoolExecutor | None = None
        self._writes: dict[Path, Future[None]] = {}
        """Writes that are not known to have succeeded, by file."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | os.PathLike, storage_options: Any = None) -> None:
        target = Path(path)
        self.raise_errors()
        self.wait_for(target)
        if self._writer is None:
            self._writer = ThreadPoolExecutor(1, "checkpoint-writer")
        self._writes[target] = self._writer.submit(write_checkpoint, on_host(checkpoint), target)

    def load_checkpoint(
        self, path: str | os.PathLike, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        self.finish()
        return torch.load(path, map_location=map_location, weights_only=True)

    def remove_checkpoint(self, path: str | os.PathLike) -> None:
        self.wait_for(Path(path))
        Path(path).unlink(missing_ok=True)

    def raise_errors(self) -> None:
        """Raises the error of a write that has failed by now, without waiting for those under way."""
        for path in [path for path, write in self._writes.items() if write.done()]:
            self.wait_for(path)

    def wait_for(self, path: Path) -> None:
        """Waits until the last write of a file has ended, and raises its error."""
        write = self._writes.pop(path, None)
        if write is not None:
            write.result()

    def finish(self) -> None:
        """Waits for all writes and ends the thread. A later save starts another one."""
        try:
            for path in list(self._writes):
                self.wait_for(path)
        finally:
            if self._writer is not None:
                self._writer.shutdown()
                self._writer = None

    def teardown(self) -> None:
        self.finish()


def write_checkpoint(checkpoint: dict[str, Any], path: Path) -> None:
    """Writes a checkpoint completely or not at all, and waits until the disk has it.

    Raises:
        StorageError: the file cannot be written; an older file of that name is unchanged.
    """
    with explained_write(path), atomic_file(path, durable=True) as file:
        torch.save(checkpoint, file)


def copy_checkpoint(source: Path, target: Path) -> None:
    """Copies a checkpoint file completely or not at all.

    Raises:
        StorageError: the copy cannot be written; an older file of that name is unchanged.
    """
    with explained_write(target), source.open("rb") as content, atomic_file(target, durable=True) as file:
        shutil.copyfileobj(content, file, 1 << 20)


def on_host(value: Any) -> Any:
    """Returns a copy of a state whose tensors lie in memory of their own on the host. Later steps do not change it."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        copied = copy.copy(value)  # keeps the metadata that torch hangs on the dict of a state
        for key, item in value.items():
            copied[key] = on_host(item)
        return copied
    if isinstance(value, (list, tuple)) and type(value) in (list, tuple):
        return type(value)(on_host(item) for item in value)
    return copy.deepcopy(value)


def checkpoint_bytes(model: torch.nn.Module, optimizer: str, *, averaged: bool) -> int:
    """Returns the predicted size of a checkpoint: weights, the optimizer's moments, and the moving average.

    Args:
        optimizer: adamw (two moments a weight) or sgd (one).
        averaged: a moving average of the weights is saved too.
    """
    weights = sum(tensor.nbytes for tensor in model.state_dict().values())
    trained = sum(parameter.nbytes for parameter in model.parameters() if parameter.requires_grad)
    return weights * (2 if averaged else 1) + trained * (2 if optimizer == "adamw" else 1)


def check_room(folder: Path, num_bytes: int) -> None:
    """Checks that two checkpoints of `num_bytes` fit on the folder's file system, besides those that the folder already holds.

    Raises:
        StorageError: they do not; the message gives both numbers.
    """
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    # A new file is written beside the one that it replaces, so an earlier checkpoint makes no room.
    missing = 2 - sum((folder / name).is_file() for name in CHECKPOINTS)
    needed = max(missing, 1) * num_bytes
    if free < needed:
        raise StorageError(
            f"{folder}: {free / 1e6:,.0f} MB are free, but this run needs about {needed / 1e6:,.0f} MB for its checkpoints "
            f"({num_bytes / 1e6:,.0f} MB each). Make room, or choose another folder with hydra.run.dir=FOLDER"
        )
