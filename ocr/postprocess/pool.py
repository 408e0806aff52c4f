"""Worker threads beside the forward pass: bounded, in order, with the results of the serial loop.

Threads, not processes: nothing is copied, and finding the text of a receipt holds Python's lock for less than a millisecond, a
third of its time at 1280 px (measured for quads, with `detect_levels`). A task should call nothing of torch, whose threads would
then fight with those of the forward pass. OpenCV's own threads gain nothing here and cost processor time (a half more with one
worker); `dali_pipelines/rendering.py` turns them off.
"""

import os
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import Any, Generic, TypeVar

Result = TypeVar("Result")

AUTO = -1
MOST_WORKERS = 4
"""That num_workers=-1 takes: each holds Python's lock for a third of its time, more would wait for each other there."""


class OrderedPool(Generic[Result]):
    """Runs functions in threads and hands their results back in the order of submission.

        with OrderedPool(num_workers=2, max_pending=64) as pool:
            for batch in batches:
                pool.submit(function, batch)
            results = pool.finish()

    A task that fails ends the work: the next `submit` or `finish` drops all tasks and results and raises the exception that the
    serial loop would have met first. After that, and after `finish`, the pool is empty and can be used again.

    Args:
        num_workers: threads, as `PostprocessConfig` has them; 0: tasks run in `submit`, one after the other.
        max_pending: `submit` waits while this many tasks are unfinished.
    """

    def __init__(self, num_workers: int, max_pending: int) -> None:
        if num_workers < AUTO or max_pending < 1:
            raise ValueError(f"num_workers={num_workers}, max_pending={max_pending}; at least {AUTO} and 1 are needed")
        self.num_workers = _auto_workers() if num_workers == AUTO else num_workers
        self.max_pending = max_pending
        self.blocked_seconds = 0.0
        """Time the caller waited in `submit` and `finish`."""
        self.busy_seconds = 0.0
        """Time that the tasks of each `finish` took, summed: more than has passed where several ran at once."""
        self._executor = ThreadPoolExecutor(self.num_workers, "postprocess") if self.num_workers else None
        self._tasks: list[Future[tuple[Result, float]]] = []
        """All since the last `finish`, in order."""
        self._unfinished: list[Future[tuple[Result, float]]] = []
        self._is_closed = False

    def submit(self, function: Callable[..., Result], *args: Any, **kwargs: Any) -> None:
        """Has `function(*args, **kwargs)` run; the arguments must not be changed until it has.

        Raises:
            RuntimeError: the pool is closed.
            Exception: that of a task.
        """
        self._sort_out_finished()
        while len(self._unfinished) >= self.max_pending:
            self._wait_for(self._unfinished, FIRST_COMPLETED)
            self._sort_out_finished()
        if self._executor is None:
            task = _done_at_once(function, *args, **kwargs)
        else:
            task = self._executor.submit(_timed, function, *args, **kwargs)
        self._tasks.append(task)
        self._unfinished.append(task)

    def finish(self) -> list[Result]:
        """Waits for all tasks; their results in the order of submission.

        Raises:
            RuntimeError: the pool is closed.
            Exception: that of a task.
        """
        self._wait_for(self._unfinished, FIRST_EXCEPTION)
        self._sort_out_finished()
        outcomes = [task.result() for task in self._tasks]
        self._tasks = []
        self.busy_seconds += sum(seconds for _, seconds in outcomes)
        return [result for result, _ in outcomes]

    def reset_statistics(self) -> None:
        """Starts counting seconds anew."""
        self.blocked_seconds, self.busy_seconds = 0.0, 0.0

    def close(self) -> None:
        """Drops what waits, lets running tasks end, and ends the threads. Closing twice does nothing more."""
        self._is_closed = True
        self._tasks, self._unfinished = [], []
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)

    def __enter__(self) -> "OrderedPool[Result]":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _wait_for(self, tasks: list[Future[tuple[Result, float]]], return_when: str) -> None:
        started = time.perf_counter()
        wait(tasks, return_when=return_when)
        self.blocked_seconds += time.perf_counter() - started

    def _sort_out_finished(self) -> None:
        """Takes finished tasks off the unfinished; raises where one has failed, or the pool is closed."""
        if self._is_closed:
            raise RuntimeError("the pool is closed")
        if any(task.done() and task.exception() is not None for task in self._unfinished):
            self._raise_first_failure()
        self._unfinished = [task for task in self._unfinished if not task.done()]

    def _raise_first_failure(self) -> None:
        # Tasks start in order: those before the failed one run or have ended, and one of them may fail as well.
        tasks, self._tasks, self._unfinished = self._tasks, [], []
        for task in tasks:
            task.cancel()
        wait(tasks)
        next(task for task in tasks if not task.cancelled() and task.exception() is not None).result()


def _timed(function: Callable[..., Result], *args: Any, **kwargs: Any) -> tuple[Result, float]:
    started = time.perf_counter()
    result = function(*args, **kwargs)
    return result, time.perf_counter() - started


def _done_at_once(function: Callable[..., Result], *args: Any, **kwargs: Any) -> Future[tuple[Result, float]]:
    """What an executor's `submit` gives back, after the function has run here. What it raises waits inside."""
    task: Future[tuple[Result, float]] = Future()
    try:
        task.set_result(_timed(function, *args, **kwargs))
    except Exception as error:
        task.set_exception(error)
    return task


def _auto_workers() -> int:
    return max(1, min(MOST_WORKERS, len(os.sched_getaffinity(0)) - 1))
