"""Runs in processes of their own, to be killed. The server that starts them has loaded the libraries already."""

import multiprocessing
import os
import runpy
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest

RUNS = Path(__file__).with_name("runs.py")


@pytest.fixture(scope="session")
def start(drawn: Path) -> Callable[..., ForkServerProcess]:
    """Starts a run in a folder and returns its process."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["ocr.training.fit", "ocr.command_line"])

    def start_run(folder: Path, *overrides: str) -> ForkServerProcess:
        arguments = {"FOLDER": folder, "GIVEN": (f"dataset_base_path={drawn}", *overrides)}
        # By its path: other packages on the machine may be called `tests` too.
        process = context.Process(target=runpy.run_path, args=(str(RUNS), arguments, "__main__"))
        process.start()
        return process

    return start_run


@pytest.fixture(scope="session")
def num_rounds() -> int:
    """Number of kills or signals of a test: FAULT_ROUNDS in the environment."""
    return int(os.environ.get("FAULT_ROUNDS", "10"))
