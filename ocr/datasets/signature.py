"""Whether a file is still the one that was read, without reading it."""

import os

Signature = tuple[int, ...]


def signature_of(path: str) -> Signature | None:
    """Numbers of which at least one changes when the file does; None: there is no such file."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
