"""The process of a row, seen from the process that compares."""

import logging
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from benchmarks.loaders import worker
from benchmarks.loaders.config import Level
from benchmarks.loaders.messages import (
    Close,
    Command,
    CompareWithOracle,
    Failed,
    MeasureRound,
    Open,
    Opened,
    Refused,
    Round,
)
from benchmarks.loaders.processes import kill_tree
from benchmarks.loaders.results import Measurement
from benchmarks.loaders.row_loader import CannotRun
from benchmarks.loaders.workload import Workload

log = logging.getLogger(__name__)
A = TypeVar("A")

# The server imports what a row needs once, before it has threads, and forks the rows.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["benchmarks.loaders.preloaded"])


class RowFailed(Exception):
    """A row raised an error, ended, or gave no answer."""


class RowProcess:
    """A row in a process of its own.

    Args:
        row: name of the row.
        log_path: file that takes everything the row prints.
    """

    def __init__(self, row: str, workload: Workload, log_path: Path) -> None:
        self.log_path = log_path
        self._pipe, other_end = _CONTEXT.Pipe()
        self._process = _CONTEXT.Process(target=worker.serve, args=(other_end, row, workload, log_path), name=row)
        self._process.start()
        other_end.close()

    @property
    def pid(self) -> int:
        """Process number."""
        return self._process.pid or 0

    def ask(self, command: Command[A], timeout: float) -> A:
        """Returns the answer to a command.

        Raises:
            CannotRun: the row refuses.
            RowFailed: the row failed, ended, or was ended because it gave no answer within `timeout` seconds.
        """
        try:
            if self._pipe.closed:
                raise EOFError
            self._pipe.send(command)
            if not self._pipe.poll(timeout):
                self.end()
                raise RowFailed(f"gave no answer within {timeout:.0f} s and was ended; see {self.log_path}")
            answer = self._pipe.recv()
        except (EOFError, ConnectionError):
            raise RowFailed(self._end_in_words()) from None
        if isinstance(answer, Refused):
            raise CannotRun(answer.reason)
        if isinstance(answer, Failed):
            raise RowFailed(answer.error)
        return answer

    def end(self) -> None:
        """Kills the process and everything it started."""
        if self._process.is_alive():
            kill_tree(self.pid)
        self._process.join()
        self._pipe.close()

    def _end_in_words(self) -> str:
        """Returns exit code and last printed line of the process, which has ended."""
        self._process.join()
        printed = self.log_path.read_text(errors="replace").strip() if self.log_path.exists() else ""
        last = printed.splitlines()[-1] if printed else "nothing was printed"
        return f"its process ended with exit code {self._process.exitcode}: {last} (all of it: {self.log_path})"


class RowSession:
    """A row's process, started when first needed. Refusals and failures become the reason of a measurement and raise nothing.

    Args:
        name: name in log lines.
        start: starts the process, or raises CannotRun.
        patience: seconds to wait for an answer; ten times the length of a round are added.
    """

    def __init__(self, name: str, start: Callable[[], RowProcess], patience: float) -> None:
        self._name, self._start, self._patience = name, start, patience
        self._process: RowProcess | None = None

    def open(self, measurement: Measurement, level: Level, num_workers: int) -> Opened | None:
        """Opens a level and records the time and memory it took; None: `measurement.reason` says why it is not open."""
        measurement.num_workers = num_workers
        opened = self._ask(measurement, Open(level, num_workers))
        if opened is not None:
            measurement.record_opened(opened)
        return opened

    def measure(self, measurement: Measurement, command: MeasureRound) -> Round | None:
        """Measures a round and adds it to the measurement; None: `measurement.reason` says why there is none."""
        round_ = self._ask(measurement, command, 10 * command.seconds)
        if round_ is not None:
            (measurement.cold_rounds if command.cold else measurement.rounds).append(round_)
        return round_

    def compare_with_oracle(self, measurement: Measurement) -> None:
        """Records how far the row's output is from the oracle."""
        measurement.parity = self._ask(measurement, CompareWithOracle())

    def close(self) -> None:
        """Ends the loader; a process that is running stays."""
        if self._process is not None:
            self._ask(Measurement(), Close())

    def end(self) -> None:
        """Ends the process, which is sure to free its memory."""
        if self._process is not None:
            self._process.end()
        self._process = None

    def _ask(self, measurement: Measurement, command: Command[A], more_seconds: float = 0.0) -> A | None:
        if measurement.reason is not None:
            return None
        try:
            if self._process is None:
                self._process = self._start()
            return self._process.ask(command, self._patience + more_seconds)
        except CannotRun as refusal:
            measurement.reason = str(refusal)
        except RowFailed as failure:
            measurement.reason = f"failed: {failure}"
            log.warning("%s failed: %s", self._name, failure)
            self.end()
        return None
