"""Writes files completely or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def write_atomically(path: Path, content: bytes, mtime_ns: int | None = None) -> None:
    """Writes a file completely or, after an error, not at all.

    Args:
        mtime_ns: modification time of the file in nanoseconds; None: now.

    Raises:
        OSError: the file cannot be written; an older file of that name is unchanged.
    """
    with atomic_file(path, mtime_ns) as file:
        file.write(content)


@contextmanager
def atomic_file(path: Path, mtime_ns: int | None = None) -> Iterator[BinaryIO]:
    """Yields a file with a temporary name beside `path`, renamed at the end and removed after an error. Creates the folder.

    The temporary name is always the same, so the next run overwrites what a killed run left. Only one process at a time may write
    a file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    try:
        with temporary.open("wb") as file:
            yield file
        if mtime_ns is not None:
            os.utime(temporary, ns=(mtime_ns, mtime_ns))
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
