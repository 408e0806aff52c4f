"""The folder of a run: one process at a time, and the checkpoint to resume from."""

import fcntl
import json
import logging
import os
import socket
from pathlib import Path
from types import TracebackType

from ocr.checkpoint import read_checkpoint
from ocr.errors import InputError
from ocr.training.ranks import is_first_rank

log = logging.getLogger(__name__)

CHECKPOINTS = ("last.ckpt", "best.ckpt")
"""Names in the folder `checkpoints` of a run, in the order in which resume=auto prefers them among files of the same age."""


class RunLock:
    """Context manager that keeps other runs out of a run folder. The system frees the lock of a dead process by itself.

    Only the first process of a run takes it. On a file system without locks it does nothing but warn.

    Raises:
        InputError: another run uses the folder; the message names its process and machine.
    """

    def __init__(self, run_dir: Path) -> None:
        self.path = run_dir / ".lock"
        self._descriptor: int | None = None

    def __enter__(self) -> "RunLock":
        if is_first_rank():
            self._descriptor = self._locked()
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._descriptor is not None:
            self.path.unlink(missing_ok=True)  # before the lock is freed, or it could be another run's file
            os.close(self._descriptor)
            self._descriptor = None

    def _locked(self) -> int | None:
        """Returns the open lock file; None where the file system has no locks."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                # Not flock(): forked workers would hold that one after their parent has died.
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                owner = os.read(descriptor, 1000)
                os.close(descriptor)
                raise InputError(
                    f"{self.path.parent}: {_described(owner)}; wait until it ends, or choose another folder with "
                    "hydra.run.dir=FOLDER"
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


def newest_checkpoint(run_dir: Path) -> Path | None:
    """Returns the newest checkpoint of a run folder that is whole; None without one."""
    found = [path for name in CHECKPOINTS if (path := run_dir / "checkpoints" / name).is_file()]
    for path in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True):
        try:
            read_checkpoint(path, "resume")
            return path
        except InputError as error:
            log.warning("%s; it is ignored", error)
    return None


def set_checkpoints_aside(run_dir: Path) -> None:
    """Renames the checkpoints of an earlier run in the folder of a new one, so that nothing takes them for the new run's.

    last.ckpt becomes earlier_last.ckpt. A file of that name, from a still earlier run, is replaced.
    """
    folder = run_dir / "checkpoints"
    for name in CHECKPOINTS:
        if (folder / name).is_file():
            (folder / name).replace(folder / f"earlier_{name}")
            log.info(
                "%s is from an earlier run. This one starts anew, so it is now called earlier_%s", folder / name, name
            )


def _described(owner: bytes) -> str:
    try:
        values = json.loads(owner)
        return f"process {values['pid']} on {values['host']} runs in this folder"
    except (ValueError, KeyError, TypeError):
        return "another process runs in this folder"
