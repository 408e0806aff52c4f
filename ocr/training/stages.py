"""Measures how long stages take on the device, without waiting for it."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class DeviceStages:
    """Sums the seconds of named stages: between CUDA events on a GPU, by the clock on a CPU."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = defaultdict(float)
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def stage(self, name: str, device: torch.device) -> Iterator[None]:
        """Adds the time of its `with` block to the stage."""
        if device.type == "cuda":
            first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            first.record()
            yield
            last.record()
            self._events.append((name, first, last))
        else:
            started = time.perf_counter()
            yield
            self._seconds[name] += time.perf_counter() - started

    def seconds(self, name: str) -> float:
        """Returns the seconds of a stage so far; on a GPU it waits until the stages recorded so far have ended."""
        for stage, first, last in self._events:
            last.synchronize()
            self._seconds[stage] += first.elapsed_time(last) / 1000
        self._events.clear()
        return self._seconds[name]
