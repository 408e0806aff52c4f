"""Renders decoded images on the CPU in threads, one image per task, while DALI decodes later batches and the consumer works."""

import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import torch

from dali_pipelines.config import BATCHES_RENDERED_AHEAD
from dali_pipelines.normalize import ImageFinisher
from dali_pipelines.rendering import ImageArray
from dali_pipelines.source import PlannedBatch, PlannedSample


@dataclass(frozen=True)
class DecodedBatch:
    """A batch that DALI has decoded, or read, on a CPU."""

    images: Sequence[ImageArray]
    """Per sample, (H, W, 3) RGB levels, or the content of its file, (n,)."""
    samples: PlannedBatch
    fed: Any = None
    """The batch as DALI was given it. `images` may refer to its memory, so that it stays alive as long as this."""


class RenderingThreads:
    """Renders and finishes the images of decoded batches; batches come out in the order in which they went in.

    The threads start with the first batch of each process, and end with `release`.

    Args:
        render: returns the rendered image of a sample, (H, W, 3) RGB levels, from its decoded image or file. It runs for several
            samples at once, and releases the GIL.
        finisher: pads and normalises rendered images.
    """

    def __init__(
        self, render: Callable[[ImageArray, PlannedSample], ImageArray], finisher: ImageFinisher, num_threads: int
    ) -> None:
        self._render, self._finisher, self._num_threads = render, finisher, num_threads
        self._pool: ThreadPoolExecutor | None = None
        self._process = 0
        self._started: deque[_BatchInThreads | RuntimeError] = deque()

    def next_batch(self, decode: Callable[[], DecodedBatch], num_left: int) -> tuple[torch.Tensor, DecodedBatch]:
        """Returns the finished images of the next batch, (B, 3, size, size), and the batch, after starting the following ones.

        Args:
            decode: returns the next decoded batch.
            num_left: batches that this method has not returned yet; more may follow.

        Raises:
            RuntimeError: this batch could not be decoded or rendered. Later batches are forgotten.
        """
        # After an error no further batch is decoded: DALI calls its pipeline invalid.
        while len(self._started) < min(BATCHES_RENDERED_AHEAD, num_left) and not self._has_failed():
            try:
                self._started.append(self._start(decode()))
            except RuntimeError as error:
                self._started.append(error)
        first = self._started.popleft()
        if isinstance(first, RuntimeError):
            raise first
        return first.result()

    def render_now(self, decoded: DecodedBatch) -> torch.Tensor:
        """Returns the finished images of a batch, out of turn. Raises RuntimeError as `next_batch` does."""
        return self._start(decoded).result()[0]

    def forget(self) -> None:
        """Drops the batches that were started and not returned."""
        while self._started:
            batch = self._started.pop()
            if isinstance(batch, _BatchInThreads):
                batch.cancel()

    def release(self) -> None:
        """Drops the started batches and ends the threads."""
        self.forget()
        if self._pool is not None and self._process == os.getpid():
            self._pool.shutdown(wait=True, cancel_futures=True)
        self._pool = None
        self._finisher.memory.release()

    def _has_failed(self) -> bool:
        return bool(self._started) and isinstance(self._started[-1], RuntimeError)

    def _start(self, decoded: DecodedBatch) -> "_BatchInThreads":
        if self._pool is None or self._process != os.getpid():  # a forked process has inherited no thread
            self._pool, self._process = ThreadPoolExecutor(self._num_threads, "render"), os.getpid()
        finished = self._finisher.empty(len(decoded.samples))
        tasks = [self._pool.submit(self._render_into, finished, slot, decoded) for slot in range(len(decoded.samples))]
        return _BatchInThreads(decoded, finished, tasks)

    def _render_into(self, finished: torch.Tensor, slot: int, decoded: DecodedBatch) -> None:
        self._finisher.write(self._render(decoded.images[slot], decoded.samples[slot]), finished, slot)


@dataclass(frozen=True)
class _BatchInThreads:
    """A batch whose images are being rendered."""

    decoded: DecodedBatch
    finished: torch.Tensor
    tasks: list[Future[None]]

    def result(self) -> tuple[torch.Tensor, DecodedBatch]:
        """Waits for all images. Raises RuntimeError from the error of the first sample that failed."""
        wait(self.tasks)
        for task in self.tasks:
            error = task.exception()
            if error is not None:
                raise RuntimeError(str(error)) from error
        return self.finished, self.decoded

    def cancel(self) -> None:
        for task in self.tasks:
            task.cancel()
