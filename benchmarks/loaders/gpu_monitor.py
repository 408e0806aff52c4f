"""Utilisation of the GPU as nvidia-smi reports it."""

import os
import shutil
import subprocess
import threading
import time

COMMAND = ("nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "--loop-ms=100")


class GpuMonitor:
    """Reads nvidia-smi ten times a second, in a thread; without nvidia-smi it has no values."""

    def __init__(self) -> None:
        self._seen: list[tuple[float, float]] = []
        self._process: subprocess.Popen[str] | None = None
        if shutil.which(COMMAND[0]) is not None:
            first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]
            command = [*COMMAND, f"--id={first}"]
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            threading.Thread(target=self._read, args=(self._process,), daemon=True).start()

    def percent_since(self, started: float) -> float | None:
        """Returns the mean since a time of `time.perf_counter`; None without values."""
        seen = [percent for when, percent in self._seen if when >= started]
        return sum(seen) / len(seen) if seen else None

    def close(self) -> None:
        """Ends nvidia-smi."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _read(self, process: "subprocess.Popen[str]") -> None:
        for line in process.stdout or ():
            if line.strip().isdigit():
                self._seen.append((time.perf_counter(), float(line)))
