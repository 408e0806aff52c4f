"""Reads images in threads before they are needed: the plan knows what comes next."""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor

from dali_pipelines.source import PlannedBatch, PlannedBatches


class ReadAhead:
    """Reads content by index in threads, before it is needed.

    The threads start with the first `fetch` of each process, and end with `stop`.
    """

    def __init__(self, read: Callable[[int], bytes], num_threads: int) -> None:
        self._read, self._num_threads = read, num_threads
        self._pool: ThreadPoolExecutor | None = None
        self._process = os.getpid()
        self._pending: dict[int, Future[bytes]] = {}

    def fetch(self, indices: Iterable[int]) -> None:
        """Starts to read these images in the threads."""
        self._drop_inherited()
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._num_threads, "shard-reader")
        for index in indices:
            if index not in self._pending:
                self._pending[index] = self._pool.submit(self._read, index)

    def get(self, index: int) -> bytes:
        """Returns the content, read now if it was not fetched. Raises the error of the read, if any."""
        self._drop_inherited()
        future = self._pending.pop(index, None)
        return self._read(index) if future is None else future.result()

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
    """

    def __init__(self, plan: PlannedBatches, fetch: Callable[[list[int]], None], num_ahead: int) -> None:
        self.epoch = plan.epoch
        self._plan, self._fetch, self._num_ahead = plan, fetch, num_ahead
        self._planned: dict[int, PlannedBatch] = {}

    def __len__(self) -> int:
        return len(self._plan)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ReadAheadPlan) and self._plan == other._plan

    @property
    def following(self) -> "ReadAheadPlan | None":
        following = self._plan.following
        return None if following is None else ReadAheadPlan(following, self._fetch, self._num_ahead)

    def batch(self, step: int) -> PlannedBatch:
        for later in range(step, min(step + 1 + self._num_ahead, len(self))):
            if later not in self._planned:
                self._planned[later] = self._plan.batch(later)
                self._fetch(self._planned[later].indices.tolist())
        return self._planned.pop(step)
