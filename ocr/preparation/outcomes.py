"""The outcome of one file, and the thread pool that works through the files."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from ocr.progress import followed

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
    pool = ThreadPoolExecutor(num_workers)
    try:
        return list(followed(pool.map(work, indices), description, len(indices)))
    finally:
        pool.shutdown(cancel_futures=True)  # after Ctrl-C or on a full disk, start nothing new
