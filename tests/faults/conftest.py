"""Runs in processes of their own, to be killed. The server that starts them has loaded the libraries already."""

import os
import runpy
from collections.abc import Callable
from dataclasses import astuple
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest

from tests.faults.process import Strike
from tests.programs import fork_server

PROCESS = Path(__file__).with_name("process.py")


@pytest.fixture(scope="session")
def start(drawn: Path) -> Callable[..., ForkServerProcess]:
    """Starts a run in a folder, which its settings may call FOLDER, and returns its process.

    Its notes lie beside the folder, unless another place is given.
    """
    context = fork_server()

    def start_run(
        folder: Path, *overrides: str, kind: str = "train", strike: Strike | None = None, notes: Path | None = None
    ) -> ForkServerProcess:
        given = (f"dataset_base_path={drawn}", *(override.replace("FOLDER", str(folder)) for override in overrides))
        arguments = (folder, notes or folder, kind, given, strike and astuple(strike))
        process = context.Process(target=runpy.run_path, args=(str(PROCESS), {"ARGUMENTS": arguments}, "__main__"))
        process.start()
        return process

    return start_run


@pytest.fixture(scope="session")
def num_rounds() -> int:
    """Number of kills or signals of a test: FAULT_ROUNDS in the environment."""
    return int(os.environ.get("FAULT_ROUNDS", "10"))
