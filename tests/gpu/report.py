"""Results of the checks and the two reports on them: gpu_check.json holds everything, gpu_check.md is for readers."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

Figure = dict[str, Any]
"""Keys: name, value, unit; with a limit also asked (the limit as text) and passed."""
MACHINE = "environment"
"""The check whose figures head the report."""


@dataclass
class Test:
    """One test of a check."""

    outcome: str = "running"
    """running, passed, failed, skipped or interrupted"""
    message: str = ""
    """Why it failed or was skipped."""
    seconds: float = 0.0
    figures: list[Figure] = field(default_factory=list)


@dataclass
class Result:
    """The state of a check."""

    name: str
    title: str
    """First line of its test file."""
    status: str = "waiting"
    """waiting, running, passed, failed, skipped or interrupted"""
    reason: str = ""
    """Why it was skipped, interrupted or stopped."""
    seconds: float = 0.0
    log: str = ""
    """Path of its process's output, relative to the report."""
    tests: dict[str, Test] = field(default_factory=dict)
    """Tests of the check, by pytest's id."""

    def add(self, record: dict[str, Any]) -> None:
        """Adds one line of records.jsonl."""
        test = self.tests.setdefault(record["test"], Test())
        if "figure" in record:
            test.figures.append(record["figure"])
        elif "outcome" in record and test.outcome != "failed":  # an error after a failure does not hide it
            test.outcome, test.message, test.seconds = record["outcome"], record["message"], record["seconds"]

    def finish(self, stopped: str = "", *, interrupted: bool = False) -> None:
        """Sets the final status.

        Args:
            stopped: why the current test did not end; empty if it did.
        """
        for test in self.tests.values():
            if test.outcome == "running":
                test.outcome, test.message = "interrupted" if interrupted else "failed", stopped
        outcomes = self.outcomes
        self.reason = stopped if self.tests or stopped else "no test ran"
        if interrupted:
            self.status = "interrupted"
        elif self.reason or outcomes["failed"]:
            self.status = "failed"
        elif outcomes["passed"]:
            self.status = "passed"
        else:
            self.skip(next(iter(self.tests.values())).message)

    def skip(self, reason: str) -> None:
        self.status, self.reason = "skipped", reason

    @property
    def figures(self) -> list[Figure]:
        return [figure for test in self.tests.values() for figure in test.figures]

    @property
    def outcomes(self) -> Counter[str]:
        return Counter(test.outcome for test in self.tests.values())


def exit_status(results: Sequence[Result]) -> int:
    """Returns 130 after Ctrl-C, 1 if a check failed or none passed, otherwise 0: a skipped check is no failure."""
    statuses = {result.status for result in results}
    return 130 if "interrupted" in statuses else int("failed" in statuses or "passed" not in statuses)


def write_reports(results: Sequence[Result], output: Path, command: str) -> None:
    """Writes both report files; a reader never sees a partial one."""
    document = {"command": command, "checks": [asdict(result) for result in results]}
    texts = {"gpu_check.json": json.dumps(document, indent=1) + "\n", "gpu_check.md": markdown(results, command)}
    for name, text in texts.items():
        part = output / f"{name}.part"
        part.write_text(text)
        part.replace(output / name)


def markdown(results: Sequence[Result], command: str) -> str:
    """Returns the machine, the verdict, the table of figures and failed tests, and the list of checks."""
    title = "# GPU check" + (" without a GPU" if "--cpu" in command.split() else "")
    rows = [("check", "figure", "measured", "limit", "passed"), ("---",) * 5]
    rows += [row for result in results if result.name != MACHINE for row in _rows(result)]
    table = "\n".join(
        "| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in row) + " |" for row in rows
    )
    checks = "\n".join(
        f"- {each.name}: {each.title}. {each.status.capitalize()}"
        + (f": {each.reason}" if each.reason else f" in {each.seconds:.0f} s")
        + (f"; log: {each.log}" if each.log else "")
        for each in results
    )
    return (
        "\n\n".join([title, f"    {command}", *_machine(results), _verdict(results), table, "## Checks", checks]) + "\n"
    )


def _machine(results: Sequence[Result]) -> Iterator[str]:
    """Yields the figures of the check `environment` as a list, and the versions as a line."""
    figures = [figure for result in results if result.name == MACHINE for figure in result.figures]
    yield "\n".join(f"- {each['name']}: {_value(each)}" for each in figures if each["name"] != "versions")
    yield from (f"Versions: {_value(each)}." for each in figures if each["name"] == "versions")


def _verdict(results: Sequence[Result]) -> str:
    statuses = ", ".join(f"{n} {status}" for status, n in Counter(result.status for result in results).items())
    passed = [figure["passed"] for result in results for figure in result.figures if "passed" in figure]
    return f"Checks: {statuses}. Figures with a limit: {sum(passed)} of {len(passed)} within it."


def _rows(result: Result) -> Iterator[tuple[str, ...]]:
    """Yields a row for each figure and for each test that failed, or for all tests if they have no figures."""
    if result.tests and not result.figures:
        counts = ", ".join(f"{number} {outcome}" for outcome, number in result.outcomes.items())
        yield result.name, "tests", counts, "none fails", _yes_or_no(not result.outcomes["failed"])
    for name, test in result.tests.items():
        _, bracket, parameters = name.partition("[")
        check = result.name + bracket + parameters
        for figure in test.figures:
            yield check, figure["name"], _value(figure), figure.get("asked", ""), _yes_or_no(figure.get("passed"))
        if test.outcome == "failed":
            yield check, f"`{name}`", test.message, "passes", _yes_or_no(False)


def _yes_or_no(passed: bool | None) -> str:
    return "" if passed is None else "yes" if passed else "**NO**"


def _value(figure: Figure) -> str:
    value, unit = figure["value"], figure["unit"]
    if isinstance(value, dict):
        text = ", ".join(f"{name} {_number(each)}" for name, each in value.items() if each is not None)
    elif isinstance(value, list) and len(value) > 1 and unit:
        text = f"{_number(median(value))} ({_number(min(value))} - {_number(max(value))})"
    elif isinstance(value, list):
        text = ", ".join(map(_number, value)) or "none"
    else:
        text = _number(value)
    return f"{text} {unit}".strip()


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"
    return "unknown" if value is None else f"{value:,}" if type(value) is int else str(value)
