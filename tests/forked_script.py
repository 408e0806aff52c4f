"""Runs a script as an interpreter of its own would, in a process that was forked with the libraries loaded already.

It imports nothing of the tests: it is started by its path, since other packages on the machine may be called `tests` too.
"""

import atexit
import gc
import multiprocessing.forkserver
import os
import runpy
import sys
from pathlib import Path


def run(script: str, arguments: list[str], cwd: Path, environment: dict[str, str], stdout: Path, stderr: Path) -> None:
    """Runs a script in a folder, with its output in two files, or in one if both are the same."""
    gc.freeze()  # DALI collects garbage at the end, which need not look at what the server has loaded
    for descriptor, path in ((1, stdout), (2, stderr)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.argv = [script, *arguments]
    sys.path[:0] = [str(Path(script).parent), *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    # Processes that the script forks come from the same server, as multiprocessing promises; it would start another one.
    multiprocessing.forkserver._forkserver.ensure_running = lambda: None  # type: ignore[method-assign]
    try:
        runpy.run_path(script, run_name="__main__")
    finally:
        atexit._run_exitfuncs()  # multiprocessing leaves them out


if __name__ == "__main__":
    run(*globals()["ARGUMENTS"])  # set by tests/programs.py
