"""Shows how far a long step is: a bar on a terminal, a log line every half minute elsewhere."""

import logging
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import track

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 30.0

T = TypeVar("T")


class Pulse:
    """Says when the next line is due.

    Args:
        seconds: time between two lines, and before the first one.
    """

    def __init__(self, seconds: float = SECONDS_BETWEEN_LINES) -> None:
        self._seconds, self._last = seconds, time.monotonic()

    def is_due(self) -> bool:
        """Returns whether the time between two lines has passed, which then starts again."""
        now = time.monotonic()
        if now - self._last < self._seconds:
            return False
        self._last = now
        return True


def followed(
    items: Iterable[T], description: str, total: int, seconds_between_lines: float = SECONDS_BETWEEN_LINES
) -> Iterator[T]:
    """Yields the items, and shows how many of `total` are done."""
    console = Console(stderr=True)
    if console.is_terminal:
        yield from track(items, description, total=total, console=console, transient=True)
        return
    pulse = Pulse(seconds_between_lines)
    for number, item in enumerate(items, 1):
        yield item
        if number < total and pulse.is_due():
            log.info("%s: %d of %d", description, number, total)
