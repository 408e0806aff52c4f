"""Runs the GPU checks within a budget of time and writes gpu_check.json and gpu_check.md: the driver of scripts/gpu_check.sh.

run.py -- starts pytest on the test file of a check -- records.py writes records.jsonl -- run.py reads it -- report.py

It imports neither torch nor DALI, so it survives where they hang or crash. On a GPU each check has a process of its own, whose end
frees the GPU's memory. On a CPU the checks share one, because imports take long there; if it crashes or is stopped, the check under
way has failed and a new process runs the others.
"""

import argparse
import ast
import json
import logging
import os
import resource
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from report import Result, exit_status, write_reports

if missing := [package for package in ("pytest", "psutil") if find_spec(package) is None]:
    sys.exit(f"the GPU checks need {' and '.join(missing)}: {sys.executable} -m pip install {' '.join(missing)}")

import psutil

log = logging.getLogger("gpu_check")

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


@dataclass(frozen=True)
class Check:
    """A test file and its share of the time."""

    name: str
    limit: float
    """Seconds after which it is stopped: about twice what a GPU should take, imports included."""
    at_least: float
    """Seconds that must be left; otherwise the check is skipped."""
    is_needed: bool = False
    """Whether the other checks are skipped if no test of this one passes."""
    is_extra: bool = False
    """Whether the time of the check is outside the budget."""
    arguments: tuple[str, ...] = ()
    """Arguments for pytest in place of the test file of this name."""


OTHER_TESTS = tuple(
    str(path)
    for path in sorted((ROOT / "tests").rglob("test_*.py"))
    if HERE not in path.parents and "pytest.mark.gpu" in path.read_text(encoding="utf-8")
)
"""Files outside this folder with tests marked gpu. Others may import packages that only `make test` installs."""
CHECKS = (
    Check("environment", 120, 5, is_needed=True),
    Check("gpu_tests", 180, 30, arguments=OTHER_TESTS),
    Check("decode", 100, 15),
    Check("targets", 60, 10),
    Check("host_sync", 70, 15),
    Check("streams", 75, 15),
    Check("damaged", 70, 10),
    Check("caches", 120, 25),
    Check("agreement", 60, 15),
    Check("train_step", 120, 25),
    Check("precision", 180, 20),
    Check("memory", 60, 15),
    Check("loaders", 150, 25),
    Check("receipts", 600, 60, is_extra=True),
)
"""In order of importance: when time runs out, the last checks are skipped."""
NAMES = [check.name for check in CHECKS]
SHORT = ("environment", "decode", "host_sync", "streams", "damaged")
TIMES_LONGER_ON_CPU = 2
"""Processors differ more than GPUs, and may be shared."""


class Driver:
    """Runs checks one after the other.

    Args:
        folder: holds the test files.
        options: passed on to the test files.
        shares_process: one process runs all checks, as long as it lives.
        command: shown in the reports.
    """

    def __init__(
        self,
        checks: Sequence[Check],
        output: Path,
        *,
        minutes: float,
        folder: Path = HERE,
        options: Sequence[str] = (),
        shares_process: bool = False,
        command: str = "tests/gpu/run.py",
    ) -> None:
        self._checks, self._output, self._minutes, self._command = checks, output, minutes, command
        self._folder, self._options, self._shares_process = folder, options, shares_process
        for name in ("logs", "runs"):
            (output / name).mkdir(parents=True, exist_ok=True)
        self._records = output / "records.jsonl"
        self._records.touch()
        self._read_bytes = 0
        self._ends = time.monotonic() + 60 * minutes
        self.results = {check.name: Result(check.name, _title(folder, check)) for check in checks}

    def run(self) -> list[Result]:
        """Returns the results, in order. Ctrl-C stops the check under way and skips the rest."""
        waiting = list(self._checks)
        try:
            while waiting:
                if reason := self._reason_to_skip(waiting[0]):
                    self._finish(waiting.pop(0), skipped=reason)
                else:
                    size = len(waiting) if self._shares_process else 1
                    waiting = self._run_process(waiting[:size]) + waiting[size:]
        except KeyboardInterrupt:
            for check in waiting:
                if self.results[check.name].status == "waiting":
                    self._finish(check, skipped="interrupted before it began")
        return list(self.results.values())

    def _reason_to_skip(self, check: Check) -> str:
        """Returns why a check cannot begin now; empty if it can."""
        for needed in (each for each in self._checks if each.is_needed and each is not check):
            if not self.results[needed.name].outcomes["passed"]:
                return f"{needed.name} did not pass"
        left = max(self._ends - time.monotonic(), 0)
        if left < check.at_least and not check.is_extra:
            return f"{left:.0f} s were left of the {self._minutes:g} minutes; it needs at least {check.at_least:.0f} s"
        return ""

    def _run_process(self, batch: list[Check]) -> list[Check]:
        """Runs checks in one process; returns those that are still to be run because it ended early."""
        process = self._start(batch)
        self._begin(batch[0])
        stopped, is_interrupted = "", False
        try:
            stopped = self._watch(process, batch)
        except KeyboardInterrupt:
            stopped, is_interrupted = "stopped by a signal", True
        finally:
            _kill(process, write_stacks=bool(stopped))
        self._read(batch)  # what it wrote since
        if is_interrupted:
            self._finish(self._current, stopped=stopped, interrupted=True)
            raise KeyboardInterrupt
        later = batch[batch.index(self._current) + 1 :]
        if self.results[self._current.name].status != "running":  # finished, but the next one may not run
            return later
        if stopped or process.returncode not in (0, 1, 5):  # passed, failed, no test chosen
            self._finish(self._current, stopped=stopped or f"its process ended with exit code {process.returncode}")
            return later
        for check in (self._current, *later):
            self._finish(check)
        return []

    def _watch(self, process: subprocess.Popen[bytes], batch: Sequence[Check]) -> str:
        """Waits for the end of a process, or until the next check does not fit; returns why the check under way was stopped."""
        while process.poll() is None and self._read(batch):
            if time.monotonic() - self._begun > self._limit:
                return f"stopped at its limit of {self._limit:.0f} s"
            time.sleep(0.05)
        return ""

    def _start(self, batch: Sequence[Check]) -> subprocess.Popen[bytes]:
        """Starts pytest in a session of its own: Ctrl-C is for the driver."""
        name, arguments = batch[0].name, list(batch[0].arguments)
        if not arguments:
            arguments = [str(self._folder / f"test_{check.name}.py") for check in batch]
            arguments += [*self._options, f"--basetemp={self._output / 'runs' / name}"]
        command = [sys.executable, "-m", "pytest", "-m", "gpu", "-v", "--capture=no", "-p", "no:cacheprovider"]
        command += ["-p", "records", f"--records={self._records}", "--continue-on-collection-errors", *arguments]
        paths = [str(HERE), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {
            "PYTHONPATH": os.pathsep.join(paths),
            "PYTHONUNBUFFERED": "1",
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # pytest-timeout would stop a check earlier
        }
        self._log = f"logs/{name}.log"
        with (self._output / self._log).open("ab") as file:
            return subprocess.Popen(
                command,
                cwd=ROOT,
                env=os.environ | environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _read(self, batch: Sequence[Check]) -> bool:
        """Adds the new records to the results. Returns False when the next check has begun but may not run.

        After Ctrl-C in the middle, the next call goes on with the record that was under way.
        """
        with self._records.open("rb") as file:
            file.seek(self._read_bytes)
            lines = file.read()
        whole = lines[: lines.rfind(b"\n") + 1]
        end = self._read_bytes + len(whole)
        for line in whole.splitlines(keepends=True):
            record = json.loads(line)
            owner = _owner(record["test"], batch)
            if record.get("started") and owner is not self._current:
                self._finish(self._current)
                if self._reason_to_skip(owner):
                    self._read_bytes = end
                    return False
                self._begin(owner)
            self._read_bytes += len(line)
            self.results[owner.name].add(record)
        return True

    def _begin(self, check: Check) -> None:
        result = self.results[check.name]
        log.info("%d/%d %s: %s", self._checks.index(check) + 1, len(self._checks), check.name, result.title)
        result.status, result.log = "running", self._log
        self._current, self._begun = check, time.monotonic()
        self._limit = check.limit if check.is_extra else min(check.limit, self._ends - self._begun)

    def _finish(self, check: Check, *, skipped: str = "", stopped: str = "", interrupted: bool = False) -> None:
        """Settles the result of a check and writes the reports."""
        result = self.results[check.name]
        if skipped:
            result.skip(skipped)
        else:
            result.seconds = time.monotonic() - self._begun if check is self._current else 0.0
            result.finish(stopped, interrupted=interrupted)
        failed = [test.message for test in result.tests.values() if test.outcome == "failed"]
        details = "; ".join(filter(None, dict.fromkeys([result.reason, *failed])))
        log.info(
            "    %s: %s%s", check.name, result.status, f": {details}" if details else f" in {result.seconds:.0f} s"
        )
        write_reports(list(self.results.values()), self._output, self._command)


def _owner(test: str, batch: Sequence[Check]) -> Check:
    """Returns the check that a test belongs to, by the name of its file."""
    stem = Path(test.partition("::")[0]).stem
    return next((check for check in batch if stem == f"test_{check.name}"), batch[0])


def _title(folder: Path, check: Check) -> str:
    """Returns the first line of the test file's docstring."""
    if check.arguments:
        return "All other tests marked gpu"
    source = (folder / f"test_{check.name}.py").read_text()
    return (ast.get_docstring(ast.parse(source)) or check.name).splitlines()[0]


def _kill(process: subprocess.Popen[bytes], *, write_stacks: bool) -> None:
    """Ends a process at once, with its group and all processes below it, in whatever group they are.

    Args:
        write_stacks: let pytest's fault handler write the stacks of all threads to the log first.
    """
    family = []
    with suppress(psutil.NoSuchProcess):
        family = psutil.Process(process.pid).children(recursive=True)
    if write_stacks:
        process.send_signal(signal.SIGABRT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(2)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for each in family:
        with suppress(psutil.NoSuchProcess):
            each.kill()
    process.wait()


DESCRIPTION = """Checks what only a GPU can show and writes gpu_check.md and gpu_check.json: each measured figure beside its limit.
No network is needed. The exit status is 1 if a check failed or none passed, 130 after Ctrl-C."""


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Returns the options, with absolute paths and a list of checks."""
    parser = argparse.ArgumentParser("scripts/gpu_check.sh", description=DESCRIPTION)
    parser.add_argument("--cpu", action="store_true", help="run what needs no GPU, on small sizes, on the CPU")
    parser.add_argument("--short", action="store_true", help=f"few and small checks: {', '.join(SHORT)}")
    parser.add_argument("--minutes", type=float, default=10.0, help="for all checks but receipts (default %(default)g)")
    parser.add_argument("--only", default="", metavar="A,B", help=f"checks to run: {', '.join(NAMES)}")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="images/{train,val} and jsons/{train,val}.json")
    parser.add_argument(
        "--output", type=Path, metavar="FOLDER", help="new or empty; default: outputs/gpu_check/ and the time"
    )
    parser.add_argument("--receipts", action="store_true", help="train on --data for another eight minutes")
    given = parser.parse_args(arguments)
    given.only = [name for name in given.only.split(",") if name]
    if wrong := [name for name in given.only if name not in NAMES]:
        parser.error(f"--only {','.join(wrong)}: no such check; choose from {', '.join(NAMES)}")
    if given.receipts and given.data is None:
        parser.error("--receipts needs --data FOLDER with real receipts")
    for split in ("train", "val") if given.data else ():
        if not (given.data / "jsons" / f"{split}.json").is_file():
            parser.error(f"--data {given.data}: there is no jsons/{split}.json in it")
    if not given.minutes > 0:
        parser.error(f"--minutes {given.minutes:g}: must be more than 0")
    output = given.output or Path("outputs", "gpu_check", time.strftime("%Y-%m-%d_%H-%M-%S"))
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        parser.error(f"--output {output}: exists; name a new or an empty folder")
    given.output, given.data = output.resolve(), given.data and given.data.resolve()
    return given


def chosen_checks(given: argparse.Namespace) -> list[Check]:
    """Returns the checks to run, in order: always `environment`, because the report names the machine."""
    wanted = set(given.only or (SHORT if given.short else NAMES))
    if given.receipts:
        wanted.add("receipts")
    elif not given.only:
        wanted.discard("receipts")
    checks = [check for check in CHECKS if check.name in wanted or check.is_needed]
    if not given.cpu:
        return checks
    on_cpu = [check for check in checks if not check.arguments]  # the other tests marked gpu need one
    return [check if check.is_extra else replace(check, limit=TIMES_LONGER_ON_CPU * check.limit) for check in on_cpu]


def main() -> int:
    given = parse_arguments(sys.argv[1:])
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the tests must not outlive this process
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a check that is stopped leaves its stacks, not its memory
    flags = {"--cpu-check": given.cpu, "--short-check": given.short, "--check-receipts": given.receipts}
    options = [flag for flag, is_set in flags.items() if is_set] + [f"--check-folder={given.output / 'data'}"]
    options += [f"--check-data={given.data}"] if given.data else []
    if given.cpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # a benchmark would use the GPU by itself
    log.info("writing to %s", given.output)
    command = shlex.join(["scripts/gpu_check.sh", *sys.argv[1:]])
    driver = Driver(
        chosen_checks(given),
        given.output,
        minutes=given.minutes,
        options=options,
        shares_process=given.cpu,
        command=command,
    )
    results = driver.run()
    for status in ("skipped", "failed"):
        log.info("%s: %s", status, ", ".join(each.name for each in results if each.status == status) or "nothing")
    if not given.cpu and results[0].status == "skipped":
        log.info("--cpu runs the checks that need no GPU")
    log.info("the report is %s", given.output / "gpu_check.md")
    return exit_status(results)


if __name__ == "__main__":
    sys.exit(main())
