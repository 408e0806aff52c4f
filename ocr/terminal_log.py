"""Log lines on a terminal: in colour, and above progress bars. The same records go without colours to log files and pipes."""

import io
import logging
import os
import shutil
import sys

from rich.console import Console
from rich.text import Text


class ColouredFormatter(logging.Formatter):
    """Formats records as another formatter does, with the styles of each rich `Text` among a record's arguments."""

    def __init__(self, plain: logging.Formatter) -> None:
        super().__init__()
        self._plain = plain

    def format(self, record: logging.LogRecord) -> str:
        line = self._plain.format(record)
        arguments = record.args if isinstance(record.args, tuple) else ()
        for argument in arguments:
            if isinstance(argument, Text):
                # The record has made the text harmless (`SafeLogRecord`); one that was changed by that stays without colours.
                line = line.replace(argument.plain.rstrip("\n"), _ansi(argument).rstrip("\n"))
        return line


def colour_the_terminal() -> None:
    """Gives colours to the log lines that go to a terminal, unless NO_COLOR is set."""
    if os.environ.get("NO_COLOR"):
        return
    for handler in logging.getLogger().handlers:
        if not isinstance(handler, logging.StreamHandler) or isinstance(handler.formatter, ColouredFormatter):
            continue
        if handler.stream in (sys.stdout, sys.stderr) and handler.stream.isatty():
            handler.setFormatter(ColouredFormatter(handler.formatter or logging.Formatter()))


class _CurrentStdout:
    """Writes to what `sys.stdout` is at that moment: rich replaces it while a bar is shown, and prints lines above the bar."""

    def write(self, text: str) -> int:
        return sys.stdout.write(text)

    def flush(self) -> None:
        sys.stdout.flush()


def log_above_bars() -> None:
    """Lets log lines on a terminal go through rich, so that none of them lands in the middle of a progress bar."""
    if not (sys.stdout.isatty() and sys.stderr.isatty()):
        return
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.StreamHandler) and handler.stream is sys.stdout:
            handler.setStream(_CurrentStdout())


def _ansi(text: Text) -> str:
    width = max(shutil.get_terminal_size().columns, 1000)  # the terminal wraps
    console = Console(file=io.StringIO(), force_terminal=True, color_system="standard", width=width)
    with console.capture() as captured:
        console.print(text, soft_wrap=True, end="")
    return captured.get()
