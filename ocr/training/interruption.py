"""SIGTERM, Ctrl-C and a closed terminal: the first signal ends the run after its step, the second one at once.

A thread reads the signals, since Python's own handlers wait until the main thread leaves C code: a step, or a collective operation
whose other rank is gone.
"""

import logging
import os
import signal
import socket
import subprocess
import threading
from types import FrameType, TracebackType
from typing import Any

import lightning
import torch
import torch.distributed
from lightning.pytorch.trainer.connectors.checkpoint_connector import _CheckpointConnector

from ocr.training.children import kill_children
from ocr.training.ranks import is_first_rank

log = logging.getLogger(__name__)

HEARD = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP") if hasattr(signal, name))
"""Signals that end a run; Windows lacks the last two. SLURM sends SIGUSR1 before the time limit of a job, if its script asks for
it. The system sends SIGHUP when a terminal is closed or its connection is lost; under nohup a run does not hear it."""
_HANGUP = getattr(signal, "SIGHUP", None)


_listening: set["StopSignals"] = set()
"""The object that listens now, if there is one."""


class RunStopped(BaseException):
    """A signal ended the run. Like KeyboardInterrupt this is no Exception: nothing may take it for a bad file."""

    def __init__(self, signum: int, *, is_saved: bool = False) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum
        self.is_saved = is_saved
        """Whether all ranks stopped at the same step and wrote last.ckpt."""


class StopSignals:
    """Context manager that listens to the signals that end a run. Outside the main thread it does nothing.

    Before training a signal raises `RunStopped` where the program is. From `defer` on it only sets `received`, and the training
    loop ends the run when its step is done.

    Args:
        promise: what the log says will happen after a signal.
    """

    def __init__(self, promise: str = "ending after this step, with a checkpoint") -> None:
        self._promise = promise
        self.received: int | None = None
        """Number of the first signal; None: none so far."""
        self._deferred = False
        self._handlers: dict[int, Any] = {}
        self._wakeup: tuple[socket.socket, socket.socket] | None = None
        self._previous_fd = -1
        self._terminals: list[int] = []
        """File descriptors of standard output and error that are a terminal."""

    def defer(self) -> None:
        """Leaves it to the training loop to end the run."""
        self._deferred = True

    def stop_deferring(self) -> None:
        """Raises `RunStopped` for a signal received since `defer`, and from now on for each signal again."""
        self._deferred = False
        if self.received is not None:
            raise RunStopped(self.received)

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is not threading.main_thread():
            return self
        self._wakeup = socket.socketpair()
        reader, writer = self._wakeup
        writer.setblocking(False)
        _listening.add(self)
        self._previous_fd = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        heard = [signum for signum in HEARD if signum != _HANGUP or signal.getsignal(signum) != signal.SIG_IGN]
        self._handlers = {signum: signal.signal(signum, self._in_main_thread) for signum in heard}
        self._terminals = [number for number in (1, 2) if os.isatty(number)]
        threading.Thread(target=self._listen, args=(reader,), name="stop-signals", daemon=True).start()
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._wakeup is None:
            return
        for signum, handler in self._handlers.items():
            signal.signal(signum, handler)
        signal.set_wakeup_fd(self._previous_fd)
        _listening.discard(self)
        _, writer = self._wakeup
        self._wakeup = None
        writer.close()  # ends the thread

    def _leave_terminal(self) -> None:
        """Sends output for a closed terminal nowhere. Writing there is an error, which could end the run before its checkpoint."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for number in self._terminals:
            os.dup2(nowhere, number)
        os.close(nowhere)

    def _in_main_thread(self, signum: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received = signum  # the thread may be slower
        if not self._deferred:
            raise RunStopped(signum)

    def _listen(self, reader: socket.socket) -> None:
        num_signals = 0
        with reader:
            while numbers := reader.recv(64):
                for signum in numbers:
                    if signum not in HEARD:
                        continue
                    if signum == _HANGUP:
                        self._leave_terminal()
                        if num_signals:
                            continue  # a shell and the system may both send it
                    num_signals += 1
                    if num_signals > 1:
                        end_at_once(signum)
                    self.received = signum
                    if self._deferred and is_first_rank():
                        name = signal.Signals(signum).name
                        log.warning("%s: %s. A second signal ends at once", name, self._promise)


def _stop_listening_in_worker() -> None:
    """Leaves the signals of a forked worker process to the process that started it.

    Ctrl-C in a terminal reaches both, and the worker would write to the socket that it shares with its parent: a second signal.
    """
    if _listening:
        _listening.clear()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for signum in HEARD:
            if signum != signal.SIGINT and signal.getsignal(signum) != signal.SIG_IGN:
                signal.signal(signum, signal.SIG_DFL)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_stop_listening_in_worker)


def end_at_once(signum: int) -> None:
    """Ends this program and the processes that it started, without writing anything."""
    kill_children()
    os._exit(128 + signum)


class Agreement:
    """The largest of the numbers that the ranks announce, known to all of them one announcement later.

    All ranks must call `latest` and `announce` alternately and equally often. The exchange runs beside a step, between host
    processes, so nothing waits for the device, and hosts stay within one step of each other.
    """

    def __init__(self, num_ranks: int) -> None:
        self._group: Any = torch.distributed.new_group(backend="gloo") if num_ranks > 1 else None
        self._pending: tuple[Any, torch.Tensor] | None = None

    def latest(self) -> int:
        """Returns the result of the last announcement; 0 before the first one, and always with one rank."""
        if self._pending is None:
            return 0
        work, numbers = self._pending
        self._pending = None
        work.wait()
        return int(numbers)

    def announce(self, number: int) -> None:
        """Sends this rank's number to the others."""
        if self._group is not None:
            numbers = torch.tensor(number)
            work = torch.distributed.all_reduce(
                numbers, torch.distributed.ReduceOp.MAX, group=self._group, async_op=True
            )
            self._pending = work, numbers


def leave_signals_alone(trainer: lightning.Trainer) -> None:
    """Keeps Lightning from handling signals itself: `StopSignals` and `Agreement` do.

    Its handlers end the run in the middle of an epoch without a checkpoint, wait for the other ranks inside the handler, and on
    SLURM write a checkpoint to the current folder, from which any later job would resume. With several ranks it also broadcasts
    a flag before every batch and reads it back from the device, so each step would wait for the one before.
    """

    def nothing() -> None:
        """Takes the place of methods that Lightning has no setting for."""

    trainer._signal_connector.register_signal_handlers = nothing  # type: ignore[method-assign]
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = nothing  # type: ignore[method-assign]


class _GivenCheckpoints(_CheckpointConnector):
    """Reads the checkpoint that is given, and no other. In a SLURM job Lightning prefers any hpc_ckpt_*.ckpt of its folder."""

    _hpc_resume_path = None


def leave_checkpoints_alone(trainer: lightning.Trainer) -> None:
    """Keeps Lightning from resuming from a file that nobody has named."""
    trainer._checkpoint_connector.__class__ = _GivenCheckpoints


def requeue_slurm_job(resume: str | None) -> None:
    """Puts the SLURM job of this process into the queue again, if it would continue this run; elsewhere does nothing.

    Args:
        resume: the key `resume` as the user gave it.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return
    if resume != "auto":
        log.warning(
            "SLURM job %s is not put into the queue again: without resume=auto and a fixed folder (hydra.run.dir=FOLDER) it would "
            "begin a new run",
            job,
        )
        return
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, capture_output=True, text=True)
        log.info("SLURM job %s is in the queue again; resume=auto continues this run", job)
    except subprocess.CalledProcessError as error:
        log.warning("scontrol requeue %s failed: %s", job, error.stderr.strip() or error)
    except OSError as error:
        log.warning("scontrol requeue %s failed: %s", job, error)
