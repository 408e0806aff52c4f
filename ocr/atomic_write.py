"""Files that are there whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def write_atomically(path: Path, content: bytes, mtime_ns: int | None = None) -> None:
    """Writes a file as `atomic_file` does.

    Args:
        mtime_ns: time of modification the file gets, nanoseconds; None: now.

    Raises:
        OSError: the folder or the disk does not take it; a file of that name stays as it was.
    """
    with atomic_file(path, mtime_ns) as file:
        file.write(content)


@contextmanager
def atomic_file(path: Path, mtime_ns: int | None = None) -> Iterator[BinaryIO]:
    """A file to write into, under a temporary name beside `path`; renamed at the end, removed after an error.

    The temporary name is always the same, so that what a killed run leaves behind is overwritten, not added to: at most one
    process at a time may write a file. Creates the folder.
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
