"""Progress bars, and runs that Ctrl-C ends early."""

import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

log = logging.getLogger(__name__)


def progress_bars() -> Progress:
    """Returns bars on standard error, hidden unless that is a terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
    )


class Interruptible(Protocol):
    """Results that may be incomplete."""

    is_interrupted: bool


@contextmanager
def ended_by_ctrl_c(results: Interruptible) -> Iterator[None]:
    """Lets Ctrl-C and SIGTERM end the block but not the program, and then marks the results as interrupted."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        results.is_interrupted = True
        log.warning("interrupted; the results so far follow")
