"""Runs steps one after the other within a budget of time, each under a limit of its own, and writes what is known after each."""

import json
import logging
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import psutil

from benchmarks.gpu_check.figures import figures_path
from benchmarks.gpu_check.lines import Line
from benchmarks.gpu_check.settings import CheckSettings
from benchmarks.gpu_check.worker import SETTINGS_NAME

log = logging.getLogger(__name__)

Status = Literal["passed", "told", "failed", "skipped", "interrupted"]
Judge = Callable[[dict[str, Any], CheckSettings], list[Line]]


@dataclass(frozen=True)
class Step:
    """One thing to measure."""

    name: str
    title: str
    seconds: float
    """It is ended after this long."""
    judge: Judge
    least_seconds: float = 5.0
    """With less left of the budget it is not begun."""
    is_needed: bool = False
    """Where it fails, the others are not begun."""
    is_extra: bool = False
    """Its time is not of the budget."""


@dataclass
class StepResult:
    """What became of a step."""

    name: str
    title: str
    status: Status
    reason: str | None = None
    """Why it was skipped, failed or was interrupted."""
    seconds: float = 0.0
    lines: list[Line] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)

    @property
    def failures(self) -> list[str]:
        """The lines that were not passed."""
        return [line.what for line in self.lines if line.passed is False]


class Runner:
    """The steps of one call.

    Args:
        command: starts a worker (`worker.serve`).
        reuses_worker: one process for all steps, as long as it lives; otherwise each step has a fresh one.
        on_result: called with all results after each step.
    """

    def __init__(
        self,
        steps: Sequence[Step],
        settings: CheckSettings,
        command: Sequence[str],
        *,
        reuses_worker: bool,
        on_result: Callable[[Sequence[StepResult]], None],
    ) -> None:
        self.results: list[StepResult] = []
        self._steps, self._settings = steps, settings
        self._command, self._reuses_worker = list(command), reuses_worker
        self._on_result = on_result
        self._output = Path(settings.output)
        self._worker: _Worker | None = None

    def run(self) -> list[StepResult]:
        """All steps. Ctrl-C ends the step under way and those after it; what was seen is kept."""
        for name in ("logs", "steps"):
            (self._output / name).mkdir(parents=True, exist_ok=True)
        self._settings.write(self._output / SETTINGS_NAME)
        ends = time.monotonic() + 60 * self._settings.minutes
        stopped: str | None = None
        try:
            for number, step in enumerate(self._steps, start=1):
                left = step.seconds if step.is_extra else ends - time.monotonic()
                if stopped is None and left < step.least_seconds:
                    result = self._skipped(
                        step,
                        f"{max(left, 0):.0f} s were left of the {self._settings.minutes:g} minutes; "
                        f"it needs {step.least_seconds:.0f} s at least",
                    )
                elif stopped is not None:
                    result = self._skipped(step, stopped)
                else:
                    log.info("%d/%d %s: %s", number, len(self._steps), step.name, step.title)
                    result = self._run_step(step, min(step.seconds, left))
                self._add(result)
                if result.status == "interrupted":
                    stopped = "interrupted before"
                elif step.is_needed and result.status == "failed":
                    stopped = f"{step.name} failed: {result.reason}"
        finally:
            self._end_worker()
        return self.results

    def _skipped(self, step: Step, reason: str) -> StepResult:
        return StepResult(step.name, step.title, "skipped", reason)

    def _run_step(self, step: Step, seconds: float) -> StepResult:
        started = time.monotonic()
        figures_path(self._output, step.name).unlink(missing_ok=True)
        try:
            answer = self._ready_worker().ask(step.name, seconds)
        except KeyboardInterrupt:
            answer = {"status": "interrupted", "reason": "interrupted"}
        if answer["status"] in ("failed", "interrupted") or not self._reuses_worker:
            self._end_worker()
        result = StepResult(step.name, step.title, "told", answer.get("reason"))
        result.seconds = time.monotonic() - started
        result.figures = self._figures(step.name)
        if answer["status"] == "skipped":
            result.status = "skipped"
            return result
        if result.figures:
            result.lines = self._judged(step, result.figures)
        if answer["status"] == "interrupted":
            result.status = "interrupted"
        elif answer["status"] == "failed" or result.failures:
            result.status = "failed"
        elif any(line.passed for line in result.lines):
            result.status = "passed"
        return result

    def _judged(self, step: Step, figures: dict[str, Any]) -> list[Line]:
        try:
            return step.judge(figures, self._settings)
        except (
            AttributeError,
            LookupError,
            TypeError,
            ValueError,
        ) as error:  # figures of a step that did not come to its end
            return [
                Line("figures are whole", repr(error), "What the step left could not be read to its end.", "yes", False)
            ]

    def _figures(self, name: str) -> dict[str, Any]:
        try:
            figures: dict[str, Any] = json.loads(figures_path(self._output, name).read_text())
        except FileNotFoundError:
            return {}
        return figures

    def _add(self, result: StepResult) -> None:
        self.results.append(result)
        said = result.status if not result.failures else f"failed: {'; '.join(result.failures)}"
        reason = f" ({result.reason})" if result.reason else ""
        log.info("    %s: %s in %.0f s%s", result.name, said, result.seconds, reason)
        self._on_result(self.results)

    def _ready_worker(self) -> "_Worker":
        if self._worker is None:
            self._worker = _Worker(self._command, self._output / "logs" / "worker.log")
        return self._worker

    def _end_worker(self) -> None:
        if self._worker is not None:
            self._worker.end()
            self._worker = None


class _Worker:
    """A process that runs steps, in a group of its own: Ctrl-C is for the one who asked."""

    def __init__(self, command: Sequence[str], log_path: Path) -> None:
        with log_path.open("a") as errors:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, start_new_session=True
            )
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("both were asked for as pipes")
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        self._log_path = log_path
        self._answers = b""

    def ask(self, step: str, seconds: float) -> Mapping[str, str]:
        """What it says to the name of a step, or what became of it instead."""
        ends = time.monotonic() + seconds
        try:
            self._stdin.write(f"{step}\n".encode())
            self._stdin.flush()
        except BrokenPipeError:
            return self._ended()
        while b"\n" not in self._answers:
            left = ends - time.monotonic()
            if left <= 0 or not select.select([self._stdout], [], [], left)[0]:
                return {"status": "failed", "reason": f"ended at its limit of {seconds:.0f} s"}
            read = os.read(self._stdout.fileno(), 65536)
            if not read:
                return self._ended()
            self._answers += read
        line, _, self._answers = self._answers.partition(b"\n")
        answer: dict[str, str] = json.loads(line)
        return answer

    def end(self) -> None:
        """At once, with all that it and its children have started, in whatever group they are."""
        below: list[int] = []
        with suppress(psutil.NoSuchProcess):
            below = [child.pid for child in psutil.Process(self._process.pid).children(recursive=True)]
        for group in {self._process.pid, *below}:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(group, signal.SIGKILL)
        for process in below:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self._process.wait()
        for stream in (self._stdin, self._stdout):
            with suppress(BrokenPipeError):
                stream.close()

    def _ended(self) -> Mapping[str, str]:
        return {
            "status": "failed",
            "reason": f"its process ended with exit code {self._process.wait()}; see logs/, also {self._log_path.name}",
        }


def exit_status(results: Sequence[StepResult]) -> int:
    """130 after Ctrl-C, 1 where a step failed or none was run, else 0: a step that was skipped has not failed."""
    statuses = {result.status for result in results}
    return 130 if "interrupted" in statuses else 1 if "failed" in statuses or statuses <= {"skipped"} else 0


def document(results: Sequence[StepResult]) -> list[dict[str, Any]]:
    """For gpu_check.json."""
    return [asdict(result) for result in results]
