"""The tests marked gpu, by name."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

from benchmarks.gpu_check.figures import CannotMeasure, Figures, Keep
from benchmarks.gpu_check.settings import CheckSettings


def measure(settings: CheckSettings, keep: Keep) -> None:
    tests = Path(__file__).resolve().parents[2] / "tests"
    if settings.cpu:
        raise CannotMeasure("tests marked gpu need a GPU")
    if find_spec("pytest") is None or not tests.is_dir():
        raise CannotMeasure("pytest or the folder tests/ is not there")
    report = Path(settings.output) / "steps" / "gpu_tests.xml"
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-v", f"--junit-xml={report}", "-p", "no:cacheprovider"]
    run([*command, str(tests)], tests.parent, keep)
    keep(outcomes(report))


def run(command: list[str], folder: Path, keep: Keep) -> None:
    """Runs pytest -v in a folder, hands its output on, and keeps what became of each test so far: one that crashes or hangs leaves
    no report behind."""
    found: Figures = {"passed": [], "failed": {}, "skipped": {}}
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,  # the worker's own brings the names of steps
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as pytest:
        for line in pytest.stdout or ():
            print(line, end="", flush=True)
            told = _OUTCOME.match(line)
            if told is None:
                continue
            name, outcome = told.groups()
            if outcome == "PASSED":
                found["passed"].append(name)
            else:
                found["skipped" if outcome == "SKIPPED" else "failed"][name] = "see logs/gpu_tests.log"
            keep(found)


_OUTCOME = re.compile(r"(\S+::.+?) (PASSED|FAILED|ERROR|SKIPPED)\b")
"""A line of pytest -v."""


def outcomes(report: Path) -> Figures:
    """Names of the tests by what became of them, from JUnit XML.

    Raises:
        FileNotFoundError: pytest did not come to its end.
    """
    found: Figures = {"passed": [], "failed": {}, "skipped": {}}
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        name = f"{case.get('classname')}::{case.get('name')}"
        broken = case.find("failure") if case.find("failure") is not None else case.find("error")
        skipped = case.find("skipped")
        if broken is not None:
            found["failed"][name] = broken.get("message", "")[:300]
        elif skipped is not None:
            found["skipped"][name] = skipped.get("message", "")[:300]
        else:
            found["passed"].append(name)
    return found
