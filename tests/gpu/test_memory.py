"""Peak memory of a run, with both pipelines alive, against the plan in its summary.json"""

import json
import threading
from types import TracebackType

import pytest
import torch

from ocr.machine import resident_set
from ocr.training.fit import train

SAMPLING_SECONDS = 0.02


class PeakMemory:
    """Samples the memory in use from a thread: of the whole GPU, since PyTorch does not count DALI's; on a CPU, of this process."""

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
        while not self._stop.wait(SAMPLING_SECONDS):
            self.peak = max(self.peak, self._used())

    def _used(self) -> int:
        if self._device.type == "cpu":
            return resident_set()
        free, total = torch.cuda.mem_get_info(self._device)
        return total - free


@pytest.mark.gpu
def test_the_peak_stays_within_the_plan(training_config, device, on_cpu, tmp_path, record):
    config = training_config(f"trainer.max_epochs={2 if on_cpu else 3}", "trainer.check_val_every_n_epoch=1")
    with PeakMemory(device) as memory:
        train(config, tmp_path)
    plan = json.loads((tmp_path / "summary.json").read_text())["memory_plan"]
    taken = memory.peak - memory.before
    record("in use before the run", round(memory.before / 1e6), "MB")
    if on_cpu:  # no plan predicts a peak of the RAM
        record("taken by the run, RAM", round(taken / 1e6), "MB")
        return
    record("peak of torch's allocator", round(torch.cuda.max_memory_reserved(device) / 1e6), "MB")
    planned = plan["predicted_gpu_peak_bytes"]
    record("taken by the run, GPU", round(taken / 1e6, 3), "MB", at_most=round(planned / 1e6, 3))
