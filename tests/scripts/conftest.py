"""Runs scripts as a user does."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture(scope="session")
def run_script() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a script with overrides in a folder and returns the finished process: `run_script("train.py", "seed=1", cwd=...)`."""

    def run(script: str, *overrides: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(SCRIPTS / script), *overrides]
        return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=280)

    return run
