"""Tells whether a file has changed without reading it."""

import os

Signature = tuple[int, ...]


def signature_of(path: str) -> Signature | None:
    """Returns inode, size, mtime and ctime of a file; None if there is no such file, or it cannot be reached."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
