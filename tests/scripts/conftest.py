"""Runs scripts as a user does."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.programs import Program

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture(scope="session")
def run_script() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a script with overrides in a folder and returns the finished process: `run_script("train.py", "seed=1", cwd=...)`.

    The process has the libraries loaded already; test_scripts.py trains with an interpreter that loads them itself.
    """

    def run(script: str, *overrides: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        return Program(SCRIPTS / script, *overrides, cwd=cwd).wait()

    return run
