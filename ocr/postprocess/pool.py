"""Runs post-processing in threads, in parallel with the forward pass, with bounded memory and results in order.

Threads instead of processes, because nothing has to be copied: post-processing and metric hold the GIL for a third of a
millisecond per receipt (quads at 640 px; docs/benchmarks/validation_cpu_202611.md). Tasks should not call torch, whose threads
would compete with those of the forward pass. OpenCV's own threads save no time here and cost CPU time (half as much again with
one worker); `dali_pipelines/rendering.py` turns them off.
"""

import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import Any, Generic, TypeVar

from dali_pipelines.config import num_cores

Result = TypeVar("Result")

AUTO = -1
MAX_AUTO_WORKERS = 8
"""Upper limit of num_workers=-1. By their processor time and the GIL, eight threads serve 2,000 receipts per second at 1600 px."""


class OrderedPool(Generic[Result]):
    """Runs functions in threads and returns their results in the order of submission.

        with OrderedPool(num_workers=2, max_pending=64) as pool:
            for batch in batches:
                pool.submit(function, batch)
            results = pool.finish()

    After a task has failed, the next `submit` or `finish` drops all tasks and results and raises the exception that a serial loop
    would have met first. After that, and after `finish`, the pool is empty and can be used again.

    Args:
        num_workers: number of threads, as in `PostprocessConfig`; 0: tasks run inside `submit`.
        max_pending: `submit` waits while this many tasks are unfinished.

    Raises:
        ValueError: a number is too small.
    """

    def __init__(self, num_workers: int, max_pending: int) -> None:
        if num_workers < AUTO or max_pending < 1:
            raise ValueError(f"num_workers={num_workers}, max_pending={max_pending}; at least {AUTO} and 1 are needed")
        self.num_workers = _auto_workers() if num_workers == AUTO else num_workers
        self.max_pending = max_pending
        self.blocked_seconds = 0.0
        """Seconds that the caller waited in `submit` and `finish`."""
        self._executor = ThreadPoolExecutor(self.num_workers, "postprocess") if self.num_workers else None
        self._tasks: list[Future[Result]] = []
        """The tasks whose results nobody has taken, in order."""
        self._unfinished: list[Future[Result]] = []
        self._is_closed = False

    def submit(self, function: Callable[..., Result], *args: Any, **kwargs: Any) -> None:
        """Queues `function(*args, **kwargs)`. Its arguments must not change before it has run.

        Raises:
            RuntimeError: the pool is closed.
            Exception: an earlier task raised it.
        """
        self._drop_finished()
        while len(self._unfinished) >= self.max_pending:
            self._wait_for(self._unfinished, FIRST_COMPLETED)
            self._drop_finished()
        run = _run_now if self._executor is None else self._executor.submit
        task = run(function, *args, **kwargs)
        self._tasks.append(task)
        self._unfinished.append(task)

    def take(self) -> list[Result]:
        """Removes and returns the results, in the order of submission, of the tasks before the first unfinished one.

        Raises:
            RuntimeError: the pool is closed.
            Exception: a task raised it.
        """
        self._drop_finished()
        num_finished = next((place for place, task in enumerate(self._tasks) if not task.done()), len(self._tasks))
        finished, self._tasks = self._tasks[:num_finished], self._tasks[num_finished:]
        return [task.result() for task in finished]

    def finish(self) -> list[Result]:
        """Waits for all tasks and returns their results in the order of submission, without those that `take` has returned.

        Raises:
            RuntimeError: the pool is closed.
            Exception: a task raised it.
        """
        self._wait_for(self._unfinished, FIRST_EXCEPTION)
        self._drop_finished()
        results = [task.result() for task in self._tasks]
        self._tasks = []
        return results

    def reset_statistics(self) -> None:
        """Sets `blocked_seconds` to zero."""
        self.blocked_seconds = 0.0

    def close(self) -> None:
        """Drops waiting tasks, waits for running ones, and ends the threads. A second call does nothing."""
        self._is_closed = True
        self._tasks, self._unfinished = [], []
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)

    def __enter__(self) -> "OrderedPool[Result]":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _wait_for(self, tasks: list[Future[Result]], return_when: str) -> None:
        started = time.perf_counter()
        wait(tasks, return_when=return_when)
        self.blocked_seconds += time.perf_counter() - started

    def _drop_finished(self) -> None:
        """Removes finished tasks from `_unfinished`; raises if one has failed or the pool is closed."""
        if self._is_closed:
            raise RuntimeError("the pool is closed")
        if any(task.done() and task.exception() is not None for task in self._unfinished):
            self._raise_first_failure()
        self._unfinished = [task for task in self._unfinished if not task.done()]

    def _raise_first_failure(self) -> None:
        # Tasks start in order, so all tasks before the failed one have started, and one of them may fail as well.
        tasks, self._tasks, self._unfinished = self._tasks, [], []
        for task in tasks:
            task.cancel()
        wait(tasks)
        next(task for task in tasks if not task.cancelled() and task.exception() is not None).result()


def _run_now(function: Callable[..., Result], *args: Any, **kwargs: Any) -> Future[Result]:
    """Runs the function in this thread and returns a finished future with its result or exception."""
    task: Future[Result] = Future()
    try:
        task.set_result(function(*args, **kwargs))
    except Exception as error:
        task.set_exception(error)
    return task


def _auto_workers() -> int:
    return max(1, min(MAX_AUTO_WORKERS, num_cores() - 1))
