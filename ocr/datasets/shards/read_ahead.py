"""Reads images in threads before they are needed: the plan knows what comes next."""

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

from dali_pipelines.source import PlannedBatch, PlannedBatches


class RangeReader(Protocol):
    """A storage in which images that lie side by side are read together."""

    @property
    def num_threads(self) -> int:
        """Number of reads worth running at once."""

    def ranges(self, indices: Sequence[int]) -> list[list[int]]:
        """Returns these images by the reads that fetch them, those needed first at the beginning."""

    def read_range(self, indices: Sequence[int]) -> dict[int, bytes]:
        """Returns the content of images, which one read fetches."""


class ReadAhead:
    """Reads content by index in threads, before it is needed.

    The threads start with the first `fetch` of each process, and end with `stop`.
    """

    def __init__(self, reader: RangeReader) -> None:
        self._reader = reader
        self._pool: ThreadPoolExecutor | None = None
        self._process = os.getpid()
        self._pending: dict[int, Future[dict[int, bytes]]] = {}

    def fetch(self, indices: Iterable[int]) -> None:
        """Starts to read these images in the threads."""
        self._drop_inherited()
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._reader.num_threads, "shard-reader")
        new = [index for index in dict.fromkeys(indices) if index not in self._pending]
        for together in self._reader.ranges(new):
            future = self._pool.submit(self._reader.read_range, together)
            self._pending.update(dict.fromkeys(together, future))

    def get(self, index: int) -> bytes:
        """Returns the content, read now if it was not fetched. Raises the error of the read, if any."""
        self._drop_inherited()
        future = self._pending.pop(index, None)
        content = self._reader.read_range([index]) if future is None else future.result()
        return content.pop(index)  # frees each image of a range as soon as it is taken

    def forget(self) -> None:
        """Drops fetched content that was not taken by `get`."""
        self._drop_inherited()
        for future in self._pending.values():
            future.cancel()
        self._pending = {}

    def stop(self) -> None:
        """Ends the threads without waiting: each finishes only its current read."""
        self._drop_inherited()
        self._pending = {}
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None

    def _drop_inherited(self) -> None:
        """Drops the threads and reads of another process: after a fork they never finish, and their locks may stay held."""
        if self._process != os.getpid():
            self._pool, self._pending, self._process = None, {}, os.getpid()


class ReadAheadPlan:
    """A plan that, with each batch it returns, starts to read the images of the next batches.

    Args:
        fetch: starts to read images.
        num_ahead: number of batches to read ahead.
        num_together: number of batches whose reads start together, so that neighbours among them are read in one range.
    """

    def __init__(
        self, plan: PlannedBatches, fetch: Callable[[list[int]], None], num_ahead: int, num_together: int = 1
    ) -> None:
        self.epoch = plan.epoch
        self._plan, self._fetch, self._num_ahead, self._num_together = plan, fetch, num_ahead, num_together
        self._planned: dict[int, PlannedBatch] = {}

    def __len__(self) -> int:
        return len(self._plan)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ReadAheadPlan) and self._plan == other._plan

    @property
    def following(self) -> "ReadAheadPlan | None":
        following = self._plan.following
        if following is None:
            return None
        return ReadAheadPlan(following, self._fetch, self._num_ahead, self._num_together)

    def batch(self, step: int) -> PlannedBatch:
        end = (step + 1 + self._num_ahead) // self._num_together * self._num_together
        new = [later for later in range(step, min(max(end, step + 1), len(self))) if later not in self._planned]
        if new:
            self._planned.update((later, self._plan.batch(later)) for later in new)
            self._fetch([index for later in new for index in self._planned[later].indices.tolist()])
        return self._planned.pop(step)
