"""A terminal for output under test, and what a person sees in it at the end."""

import contextlib
import fcntl
import os
import pty
import re
import struct
import termios
import threading
from typing import TextIO

_TOKEN = re.compile(r"\x1b\[([?\d;]*)([A-Za-z])|([\r\n])|([^\x1b\r\n]+)")


class Terminal:
    """A pseudo-terminal, wide enough that no log line wraps."""

    def __init__(self) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 250, 0, 0))
        self.file: TextIO = os.fdopen(slave, "w", buffering=1)
        """Takes the output."""
        self._read = b""
        self._reader = threading.Thread(target=self._receive)
        self._reader.start()

    def close(self) -> str:
        """Closes `file` and returns all that was written, control characters included."""
        self.file.close()
        self._reader.join()
        os.close(self._master)
        return self._read.decode()

    def _receive(self) -> None:
        with contextlib.suppress(OSError):  # how a pseudo-terminal ends on Linux
            while part := os.read(self._master, 1 << 16):
                self._read += part


def lines_left(written: str) -> list[str]:
    """Returns the lines that a terminal shows after this output, those that have scrolled away included.

    Raises:
        ValueError: a control sequence that this function does not know.
    """
    lines, row, column = [""], 0, 0
    for numbers, letter, control, text in _TOKEN.findall(written):
        if text:
            lines[row] = lines[row][:column].ljust(column) + text + lines[row][column + len(text) :]
            column += len(text)
        elif control == "\r":
            column = 0
        elif control == "\n":
            row += 1
            lines += [""] * (row == len(lines))
        elif letter == "A":
            row -= int(numbers or 1)
        elif letter == "K" and numbers == "2":
            lines[row] = ""
        elif letter not in ("m", "h", "l"):  # colours; the cursor shown or hidden
            raise ValueError(f"unknown control sequence ESC[{numbers}{letter}")
    return [line.rstrip() for line in lines]
