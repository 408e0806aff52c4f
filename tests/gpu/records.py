"""Appends the events of a pytest run to a file, line by line, so that nothing before a crash or a hang is lost.

A pytest plugin, loaded by run.py (`-p records`). Each line is a JSON object with the test's id under "test" and one of
"started": true, "figure": {...} (written by the fixture `record` of conftest.py) or "outcome": "passed" | "failed" | "skipped".
"""

import json
from pathlib import Path
from typing import Any

import pytest

_file: Path | None = None


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--records", type=Path, required=True, help="file that the records are appended to")


def pytest_configure(config: pytest.Config) -> None:
    global _file
    _file = config.getoption("--records")


def write(test: str, **content: Any) -> None:
    """Appends one line in one write."""
    if _file is not None:
        with _file.open("a") as file:
            file.write(json.dumps({"test": test} | content) + "\n")


def pytest_runtest_logstart(nodeid: str) -> None:
    write(nodeid, started=True)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" or not report.passed:  # set-up and tear-down count only if they fail or skip
        write(report.nodeid, outcome=report.outcome, message=_message(report), seconds=report.duration)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.failed:
        write(report.nodeid, outcome="failed", message=_message(report), seconds=0.0)


def _message(report: pytest.TestReport | pytest.CollectReport) -> str:
    """Returns the reason of a skip or the last line of an error; empty for a test that passed."""
    if report.passed:
        return ""
    if isinstance(report.longrepr, tuple):  # skipped: file, line, reason
        return report.longrepr[2].removeprefix("Skipped: ")
    crash = getattr(report.longrepr, "reprcrash", None)
    message = crash.message if crash else str(report.longrepr).splitlines()[-1]
    return " ".join(message.removeprefix("Failed: ").removeprefix("E ").split())[:500]
