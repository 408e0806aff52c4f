"""Results of the checks, and the reports written from them: gpu_check.json has everything, gpu_check.md is to be read."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

Figure = dict[str, Any]
"""name, value, unit; with a limit also asked (text) and passed."""
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
    """What its process printed, relative to the report."""
    tests: dict[str, Test] = field(default_factory=dict)
    """By pytest's id."""

    def add(self, record: dict[str, Any]) -> None:
        """Takes one line of records.jsonl."""
        test = self.tests.setdefault(record["test"], Test())
        if "figure" in record:
            test.figures.append(record["figure"])
        elif "outcome" in record and test.outcome != "failed":  # an error after a failure does not hide it
            test.outcome, test.message, test.seconds = record["outcome"], record["message"], record["seconds"]

    def finish(self, stopped: str = "", *, interrupted: bool = False) -> None:
        """Settles the status.

        Args:
            stopped: why the test under way did not end.
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
    def outcomes(self) -> Counter[str]:
        return Counter(test.outcome for test in self.tests.values())


def exit_status(results: Sequence[Result]) -> int:
    """Returns 130 after Ctrl-C, 1 if a check failed or none passed, otherwise 0: a skipped check is no failure."""
    statuses = {result.status for result in results}
    return 130 if "interrupted" in statuses else int("failed" in statuses or "passed" not in statuses)


def write_reports(results: Sequence[Result], output: Path, command: str) -> None:
    """Replaces both files, whole."""
    content = {"command": command, "checks": [asdict(result) for result in results]}
    for name, text in (
        ("gpu_check.json", json.dumps(content, indent=1) + "\n"),
        ("gpu_check.md", markdown(results, command)),
    ):
        part = output / f"{name}.part"
        part.write_text(text)
        part.replace(output / name)


def markdown(results: Sequence[Result], command: str) -> str:
    """Returns the machine, the verdict, the table of figures, the failures and the list of checks."""
    title = "# GPU check" + (" without a GPU" if "--cpu" in command.split() else "")
    parts = [title, f"    {command}", *_machine(results), _verdict(results), _table(results)]
    failed = [
        f"- {result.name} (see {result.log}): {reason}"
        for result in results
        if result.status == "failed"
        for reason in ([result.reason] if result.reason else _failures(result))
    ]
    parts += ["## Failed\n\n" + "\n".join(failed)] if failed else []
    checks = [
        f"- {each.name}: {each.title}. {each.status.capitalize()}"
        + (f": {each.reason}" if each.reason else f" in {each.seconds:.0f} s")
        for each in results
    ]
    return "\n\n".join([*parts, "## Checks\n\n" + "\n".join(checks)]) + "\n"


def _failures(result: Result) -> list[str]:
    return [f"`{name}`: {test.message}" for name, test in result.tests.items() if test.outcome == "failed"]


def _machine(results: Sequence[Result]) -> Iterator[str]:
    """Yields the figures of the check `environment` as a list, and the versions as a line."""
    own = [result for result in results if result.name == MACHINE]
    figures = [figure for result in own for test in result.tests.values() for figure in test.figures]
    versions = [figure for figure in figures if figure["name"] == "versions"]
    if figures:
        yield "\n".join(f"- {each['name']}: {_value(each)}" for each in figures if each not in versions)
    yield from (f"Versions: {_value(figure)}." for figure in versions)


def _verdict(results: Sequence[Result]) -> str:
    count = Counter(result.status for result in results)
    figures = [figure for result in results for test in result.tests.values() for figure in test.figures]
    asked = [figure["passed"] for figure in figures if "passed" in figure]
    statuses = ", ".join(f"{number} {status}" for status, number in count.items())
    return f"Checks: {statuses}. Figures with a limit: {sum(asked)} of {len(asked)} within it."


def _table(results: Sequence[Result]) -> str:
    rows = [("check", "figure", "measured", "asked", "passed"), ("---",) * 5]
    for result in results:
        if result.name == MACHINE:
            continue
        if result.tests and not any(test.figures for test in result.tests.values()):
            found = ", ".join(f"{number} {outcome}" for outcome, number in result.outcomes.items())
            rows.append((result.name, "tests", found, "none fails", _yes_or_no(_PASSED.get(result.status))))
        for name, test in result.tests.items():
            _, bracket, parameters = name.partition("[")
            for figure in test.figures:
                check, passed = result.name + bracket + parameters, _yes_or_no(figure.get("passed"))
                rows.append((check, figure["name"], _value(figure), figure.get("asked", ""), passed))
    return "\n".join("| " + " | ".join(_cell(text) for text in row) + " |" for row in rows)


_PASSED = {"passed": True, "failed": False}


def _yes_or_no(passed: bool | None) -> str:
    return "" if passed is None else "yes" if passed else "**NO**"


def _value(figure: Figure) -> str:
    value, unit = figure["value"], figure["unit"]
    if isinstance(value, list) and value and all(isinstance(each, (int, float)) for each in value):
        if len(value) > 1 and unit:
            return f"{_number(median(value))} ({_number(min(value))} - {_number(max(value))}) {unit}"
        value = value[0] if len(value) == 1 and unit else value
    if isinstance(value, dict):
        return ", ".join(f"{name} {_number(each)}" for name, each in value.items() if each is not None)
    if isinstance(value, list):
        return ", ".join(map(_number, value)) or "none"
    return f"{_number(value)} {unit}".strip()


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"
    return "unknown" if value is None else f"{value:,}" if type(value) is int else str(value)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
