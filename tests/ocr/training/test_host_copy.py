"""A copy to the host holds the numbers of its start, and any thread may wait for it."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from ocr.training.host_copy import HostCopy


def test_a_thread_waits_on_the_device_of_the_tensor(monkeypatch):
    """On another device, waiting would create a CUDA context there."""
    current: list[Any] = [torch.device("cuda", 0)]
    waited_on = []

    class Event:
        def synchronize(self) -> None:
            waited_on.append(current[-1])

    @contextmanager
    def on_device(device: torch.device) -> Iterator[None]:
        current.append(device)
        yield
        current.pop()

    monkeypatch.setattr(torch.cuda, "device", on_device)
    copy: Any = HostCopy(torch.zeros(1))
    copy._copied, copy._device = Event(), torch.device("cuda", 1)
    with ThreadPoolExecutor(1) as thread:
        thread.submit(copy.wait).result()
    assert waited_on == [torch.device("cuda", 1)]


@pytest.mark.gpu
def test_a_copy_from_the_gpu_holds_the_numbers_of_its_start():
    tensor = torch.arange(1_000_000, device="cuda")
    copy = HostCopy(tensor)
    tensor.zero_()
    with ThreadPoolExecutor(1) as thread:
        found = thread.submit(copy.wait).result()
    assert found.is_pinned()
    assert torch.equal(found, torch.arange(1_000_000))
