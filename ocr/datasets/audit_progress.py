"""Shows how far an audit is: a bar on a terminal, a log line from time to time elsewhere."""

import logging
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ocr.progress import Pulse

logger = logging.getLogger(__name__)

SHOW_PROGRESS_FROM = 500
"""Smallest number of images that get a progress bar; they take about a second."""


class AuditProgress:
    """Counts the images of one audit. Their number is estimated from the share of the annotations that has been read."""

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._console = Console(stderr=True)
        self._num_done = 0
        self._start, self._pulse = time.monotonic(), Pulse()

    def __enter__(self) -> "AuditProgress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, num_images: int, share_read: float | None) -> None:
        """Adds images that are done.

        Args:
            num_images: number of images.
            share_read: share of all images that is done with them, 0 to 1; None: unknown.
        """
        self._num_done += num_images
        total = round(self._num_done / share_read) if share_read else None
        if (total or self._num_done) < SHOW_PROGRESS_FROM:
            return
        if self._console.is_terminal:
            self._draw(total)
        elif self._pulse.is_due():
            self._log(total, share_read)

    def _draw(self, total: int | None) -> None:
        if self._bar is None:
            columns = (TextColumn("Checking images"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=self._console, transient=True)
            self._bar.add_task("")
            self._bar.start()
        self._bar.update(self._bar.task_ids[0], completed=self._num_done, total=total)

    def _log(self, total: int | None, share_read: float | None) -> None:
        seconds = time.monotonic() - self._start
        if total is None or not share_read:
            logger.info("Checked %d images in %.0f s", self._num_done, seconds)
            return
        left = seconds / share_read - seconds
        logger.info("Checked %d of about %d images; about %.0f s left", self._num_done, total, left)
