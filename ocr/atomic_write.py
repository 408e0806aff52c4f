"""Files that are there whole or not at all."""

import os
from pathlib import Path


def write_atomically(path: Path, content: bytes, mtime_ns: int | None = None) -> None:
    """Writes a file under a temporary name beside it, then renames it; creates the folder.

    The temporary name is always the same, so that what a killed run leaves behind is overwritten, not added to: at most one
    process at a time may write a file.

    Args:
        mtime_ns: time of modification the file gets, nanoseconds; None: now.

    Raises:
        OSError: the folder or the disk does not take it; a file of that name stays as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    try:
        temporary.write_bytes(content)
        if mtime_ns is not None:
            os.utime(temporary, ns=(mtime_ns, mtime_ns))
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
