"""Measures how long stages take on the device, without waiting for it."""

import time
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class DeviceStages:
    """Sums the seconds of named stages: between CUDA events of the current stream on a GPU, by the clock on a CPU."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = defaultdict(float)
        self._events: deque[tuple[str, torch.cuda.Event, torch.cuda.Event]] = deque()
        """First and last event of each stage whose time has not been added, in the order of the stream."""

    @contextmanager
    def stage(self, name: str, device: torch.device) -> Iterator[None]:
        """Adds the time of its `with` block to the stage."""
        if device.type == "cuda":
            stream = torch.cuda.current_stream(device)
            first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            first.record(stream)
            yield
            last.record(stream)
            self._events.append((name, first, last))
            self._add_ended()
        else:
            started = time.perf_counter()
            yield
            self._seconds[name] += time.perf_counter() - started

    def seconds(self, name: str) -> float:
        """Returns the seconds of a stage so far; on a GPU it waits until the stages recorded so far have ended."""
        if self._events:
            self._events[-1][2].synchronize()
        self._add_ended()
        return self._seconds[name]

    def seconds_ended(self, name: str) -> float:
        """Returns the seconds of a stage as far as the device has come, without waiting for it."""
        self._add_ended()
        return self._seconds[name]

    def _add_ended(self) -> None:
        while self._events and self._events[0][2].query():
            name, first, last = self._events.popleft()
            self._seconds[name] += first.elapsed_time(last) / 1000
