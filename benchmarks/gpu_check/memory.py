"""A run with both pipelines alive, its memory sampled beside it."""

import json
import threading
from types import TracebackType

import torch

from benchmarks.gpu_check.figures import Keep
from benchmarks.gpu_check.images import device_of, run_folder, training_config
from benchmarks.gpu_check.settings import CheckSettings
from ocr.machine import resident_set
from ocr.training.fit import train

EVERY_SECONDS = 0.02


class PeakMemory:
    """Bytes in use, sampled in a thread: of the whole GPU, for torch does not know what DALI takes; or of this process's RAM."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self.before = self.peak = self._used()

    def __enter__(self) -> "PeakMemory":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, stack: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._stop.wait(EVERY_SECONDS):
            self.peak = max(self.peak, self._used())

    def _used(self) -> int:
        if self._device.type == "cpu":
            return resident_set()
        free, total = torch.cuda.mem_get_info(self._device)
        return total - free


def measure(settings: CheckSettings, keep: Keep) -> None:
    device = device_of(settings)
    folder = run_folder(settings, "memory")
    config = training_config(
        settings, f"trainer.max_epochs={2 if settings.cpu else 3}", "trainer.check_val_every_n_epoch=1"
    )
    with PeakMemory(device) as memory:
        train(config, folder)
    summary = json.loads((folder / "summary.json").read_text())
    keep(
        {
            "memory": "GPU" if device.type == "cuda" else "RAM",
            "before_bytes": memory.before,
            "peak_bytes": memory.peak,
            "torch_peak_bytes": torch.cuda.max_memory_reserved(device) if device.type == "cuda" else None,
            "memory_plan": summary.get("memory_plan"),
        }
    )
