"""The lock of a run folder: one run at a time."""

import atexit
import json
import logging
import os
import socket
from pathlib import Path
from types import TracebackType
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from ocr.command_line import plain_errors
from ocr.errors import InputError
from ocr.file_lock import lock_of_process
from ocr.placement import placement

log = logging.getLogger(__name__)

_held: dict[Path, int] = {}
"""Open lock files of this process that no `RunLock` has taken over yet."""


class LockRunFolder(Callback):
    """Hydra's callback that locks the run folder before Hydra writes its own files there, .hydra/*.yaml and train.log.

    A multirun locks the folder of all its jobs, whose names are the same in each multirun; each job locks its own one too when it
    begins to train. Loads neither torch nor Lightning.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        _lock_until_exit(RunLock(Path(config.hydra.run.dir)))

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        _lock_until_exit(RunLock(Path(config.hydra.sweep.dir), "hydra.sweep.dir"))


def _lock_until_exit(lock: "RunLock") -> None:
    with plain_errors():
        if placement().is_first:
            lock.__enter__()
            atexit.register(lock.release)
            lock.hand_over()


def folder_key() -> str:
    """Returns the setting that chooses the run folder of this Hydra job."""
    is_multirun = HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN
    return "hydra.sweep.dir" if is_multirun else "hydra.run.dir"


class RunLock:
    """Context manager that keeps other runs out of a run folder. The system frees the lock of a dead process by itself.

    The first process of a run takes it. On a file system without locks it does nothing but warn. If `LockRunFolder` has locked the
    folder already, that lock is taken over.

    Args:
        key: the setting that chooses the folder, for messages; None: `folder_key`.

    Raises:
        InputError: another run uses the folder; the message names its process and machine.
    """

    def __init__(self, run_dir: Path, key: str | None = None) -> None:
        self._key = key or folder_key()
        self.path = run_dir.absolute() / ".lock"
        self._descriptor: int | None = None

    def __enter__(self) -> "RunLock":
        self._descriptor = _held.pop(self.path, None)
        if self._descriptor is None:
            self._descriptor = self._locked()
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()

    def release(self) -> None:
        """Frees the lock, if this object or a later one still has to take it over."""
        self._descriptor = _held.pop(self.path, self._descriptor)
        if self._descriptor is not None:
            self.path.unlink(missing_ok=True)  # before the lock is freed, or it could be another run's file
            os.close(self._descriptor)
            self._descriptor = None

    def hand_over(self) -> None:
        """Leaves the lock to the next `RunLock` of this folder in this process."""
        if self._descriptor is not None:
            _held[self.path] = self._descriptor
            self._descriptor = None

    def _locked(self) -> int | None:
        """Returns the open lock file; None where the file system has no locks."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                lock_of_process(descriptor)  # forked workers would hold the other kind after their parent has died
            except (BlockingIOError, PermissionError):
                owner = os.read(descriptor, 1000)
                os.close(descriptor)
                raise InputError(
                    f"{self.path.parent}: {_described(owner)}; wait until it ends, or choose another folder with "
                    f"{self._key}=FOLDER"
                ) from None
            except OSError as error:
                log.warning("%s: %s; nothing keeps a second run out of this folder", self.path, error.strerror)
                os.close(descriptor)
                return None
            if self._is_current(descriptor):
                os.ftruncate(descriptor, 0)
                os.write(descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())
                return descriptor
            os.close(descriptor)  # its owner removed it meanwhile

    def _is_current(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), os.stat(self.path))
        except FileNotFoundError:
            return False


def _described(owner: bytes) -> str:
    try:
        values = json.loads(owner)
        return f"process {values['pid']} on {values['host']} runs in this folder"
    except (ValueError, KeyError, TypeError):
        return "another process runs in this folder"
