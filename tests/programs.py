"""Scripts in processes of their own, which start in milliseconds: a server that has loaded the libraries forks them.

An interpreter of its own takes seconds to import torch, Lightning and DALI. A few tests start one nevertheless, as a user does.
"""

import multiprocessing
import os
import runpy
import subprocess
import tempfile
from collections.abc import Mapping
from multiprocessing.context import ForkServerContext
from pathlib import Path

FORKED_SCRIPT = Path(__file__).with_name("forked_script.py")
LIBRARIES = (
    "benchmarks.loaders.preloaded",
    "dali_pipelines.loader",  # DALI and timm are imported late, by each process that needs them
    "timm",
    "ocr.training.fit",
    "ocr.inference",
    "ocr.preparation.prepare",
)


def fork_server() -> ForkServerContext:
    """Returns the context whose processes have the libraries loaded. All processes of a test process come from one server."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(LIBRARIES))
    return context


class Program:
    """A running script. What a module reads from the environment on import is that of the server.

    Args:
        environment: variables in place of this process's own.
        merged: gives the error output together with the standard output.
    """

    def __init__(
        self,
        script: Path,
        *arguments: str,
        cwd: Path,
        environment: Mapping[str, str] | None = None,
        merged: bool = False,
    ) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="program-")
        self._stdout, self._stderr = (
            Path(self._folder.name) / name for name in ("stdout", "stdout" if merged else "stderr")
        )
        given = (str(script), list(arguments), cwd, dict(environment or os.environ), self._stdout, self._stderr)
        self._process = fork_server().Process(
            target=runpy.run_path, args=(str(FORKED_SCRIPT), {"ARGUMENTS": given}, "__main__")
        )
        self._process.start()

    @property
    def pid(self) -> int:
        """Process number."""
        return self._process.pid or 0

    @property
    def returncode(self) -> int | None:
        """Exit code, negative after a signal; None while the script runs."""
        return self._process.exitcode

    def output(self) -> str:
        """Returns the standard output so far."""
        return self._stdout.read_text() if self._stdout.exists() else ""

    def send_signal(self, signum: int) -> None:
        """Sends a signal to the process, unless it has ended."""
        if self.returncode is None:
            os.kill(self.pid, signum)

    def wait(self, timeout: float = 280) -> subprocess.CompletedProcess[str]:
        """Waits for the end and returns it with the outputs. A script that takes longer is killed and raises TimeoutExpired."""
        self._process.join(timeout)
        if self.returncode is None:
            self._process.kill()
            self._process.join()
            raise subprocess.TimeoutExpired(str(self._process), timeout, self.output())
        stderr = self._stderr.read_text() if self._stderr != self._stdout and self._stderr.exists() else ""
        done = subprocess.CompletedProcess(self._process.name, self.returncode, self.output(), stderr)
        self._folder.cleanup()
        return done
