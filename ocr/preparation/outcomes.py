"""The outcome of one file, and the thread pool that works through the files."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, TypeVar

from ocr.progress import followed

T = TypeVar("T")

Action = Literal["copied", "turned", "encoded", "kept", "made", "failed"]


@dataclass(frozen=True)
class Outcome:
    """The result for one file."""

    action: Action
    """copied byte for byte; turned without loss (PNG); encoded again (JPEG); kept from an earlier run; made (maps, shards);
    failed."""
    num_bytes: int = 0
    """Bytes written."""
    reason: str | None = None
    """Reason of a failure."""


def in_threads(
    work: Callable[[int], Outcome], indices: Sequence[int], description: str, num_workers: int
) -> list[Outcome]:
    """Returns the outcome of `work` for each index, in order, and shows a progress bar.

    Decoding, drawing maps and compressing release the GIL.
    """
    return list(followed(outcomes_in_threads(work, indices, num_workers), description, len(indices)))


def outcomes_in_threads(work: Callable[[T], Outcome], items: Iterable[T], num_workers: int) -> Iterator[Outcome]:
    """Yields the outcome of `work` for each item, in order. At most two items per thread are taken and not done."""
    pool = ThreadPoolExecutor(num_workers)
    pending: deque[Future[Outcome]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(work, item))
            if len(pending) == 2 * num_workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)  # after Ctrl-C or on a full disk, start nothing new
