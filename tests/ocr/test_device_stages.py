"""Times of stages: by the clock on a CPU, between events on a GPU, which a substitute plays here."""

import time
from pathlib import Path

import pytest
import torch

from ocr.device_stages import DeviceStages
from ocr.loaders.engines import Engine
from ocr.loaders.loader import BatchLoader
from tests.ocr.loaders.batches import CPU, uncached_dataset

GPU = torch.device("cuda", 0)


class FakeStream:
    """A stream whose work so far ends at `busy_until`; the device has come to `now`, both in seconds."""

    def __init__(self) -> None:
        self.busy_until = self.now = 0.0
        self.num_waits = 0


class FakeEvent:
    """An event of the `FakeStream` it was recorded in."""

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self, stream: FakeStream) -> None:
        self._stream, self._ends = stream, stream.busy_until

    def query(self) -> bool:
        return self._stream.now >= self._ends

    def synchronize(self) -> None:
        self._stream.num_waits += not self.query()
        self._stream.now = max(self._stream.now, self._ends)

    def elapsed_time(self, other: "FakeEvent") -> float:
        return 1000 * (other._ends - self._ends)


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> FakeStream:
    stream = FakeStream()
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    return stream


def test_on_a_cpu_the_clock_measures():
    stages = DeviceStages()
    for _ in range(2):
        with stages.stage("sleep", CPU):
            time.sleep(0.01)
    assert 0.02 <= stages.seconds("sleep") == stages.seconds_ended("sleep") < 1
    assert stages.seconds("other") == 0


def test_on_a_gpu_the_device_measures_and_only_a_reading_waits(stream):
    stages = DeviceStages()
    for number in range(4):
        with stages.stage("even" if number % 2 == 0 else "odd", GPU):
            stream.busy_until += 1 + number
    stream.now = 4.0  # the first two have ended
    assert (stages.seconds_ended("even"), stages.seconds_ended("odd")) == (1, 2)
    assert stream.num_waits == 0
    assert (stages.seconds("even"), stages.seconds("odd")) == (1 + 3, 2 + 4)
    assert stream.num_waits == 1


def test_a_loader_on_a_gpu_waits_as_long_as_the_stream_of_its_consumer(stream, drawn: Path):
    """The host waits for its batches all the time, but the stream is busy with earlier steps, except before the last batch."""
    loader = BatchLoader(uncached_dataset(drawn, training=True), Engine("dali", CPU), batch_size=4)
    loader._device = GPU  # its batches are made on the CPU
    fresh = loader._fresh.batches

    def arriving(plan):
        for number, batch in enumerate(fresh(plan)):
            if number == 2:
                stream.busy_until += 0.5  # the stream itself waits for DALI, which the host does not
            yield batch

    loader._fresh.batches = arriving
    for _ in loader:
        stream.busy_until += 10  # a step
    assert loader.wait_seconds_so_far == 0
    assert loader.wait_seconds == pytest.approx(0.5)
    loader.reset_statistics()
    assert loader.wait_seconds == 0
    loader.close()
