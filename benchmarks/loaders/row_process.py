"""The process of a row, as the one who compares sees it."""

import multiprocessing
import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.loaders import worker
from benchmarks.loaders.setting import Setting
from benchmarks.loaders.source import CannotRun

# What a row needs is imported once, by a process that has no threads yet; from that one the rows are forked.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload([worker.__name__])


class RowFailed(Exception):
    """A row ended with an error, or gave no answer."""


class RowProcess:
    """A row in a process of its own.

    Args:
        row: its name.
        log_path: takes everything that it prints.
    """

    def __init__(self, row: str, setting: Setting, log_path: Path) -> None:
        self.log_path = log_path
        self._pipe, other_end = _CONTEXT.Pipe()
        self._process = _CONTEXT.Process(target=worker.serve, args=(other_end, row, setting, log_path), name=row)
        self._process.start()
        other_end.close()

    @property
    def pid(self) -> int:
        """Its process number."""
        return self._process.pid or 0

    @property
    def has_ended(self) -> bool:
        """Whether it runs no more, for whatever reason."""
        return not self._process.is_alive()

    def ask(self, do: str, timeout: float, **arguments: Any) -> dict[str, Any]:
        """The answer to a command.

        Raises:
            CannotRun: the row says that it cannot.
            RowFailed: it failed, ended, or gave no answer within `timeout` seconds; in the last case it was ended.
        """
        try:
            if self._pipe.closed:
                raise EOFError
            self._pipe.send({"do": do} | arguments)
            if not self._pipe.poll(timeout):
                self.end()
                raise RowFailed(f"gave no answer within {timeout:.0f} s and was ended; see {self.log_path}")
            answer: dict[str, Any] = self._pipe.recv()
        except (EOFError, ConnectionError):
            raise RowFailed(self._last_words()) from None
        if "cannot_run" in answer:
            raise CannotRun(answer["cannot_run"])
        if "failed" in answer:
            raise RowFailed(answer["failed"])
        return answer

    def end(self) -> None:
        """At once, with everything it started."""
        if self._process.is_alive() and self._process.pid is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.kill()  # in case it has not left our group yet
        self._process.join()
        self._pipe.close()

    def _last_words(self) -> str:
        self._process.join()
        printed = self.log_path.read_text(errors="replace").strip() if self.log_path.exists() else ""
        last = printed.splitlines()[-1] if printed else "nothing was printed"
        return f"its process ended with exit code {self._process.exitcode}: {last} (all of it: {self.log_path})"
