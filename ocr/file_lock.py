"""Locks on open files, which keep other processes out. The system frees those of a dead process by itself."""

import errno

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


def lock_of_process(descriptor: int, *, wait: bool = False) -> None:
    """Locks a file for this process alone: its forked workers do not hold the lock. Closing any descriptor of the file frees it.

    Args:
        wait: wait until another process has freed the file.

    Raises:
        BlockingIOError, PermissionError: another process holds the lock.
        OSError: the file system, or Windows, has no such locks.
    """
    _check_support()
    fcntl.lockf(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)


def lock_of_open_file(descriptor: int) -> None:
    """Locks a file or folder for as long as it is open, here or in a forked worker.

    Raises:
        BlockingIOError: somebody else holds the lock.
        OSError: the file system, or Windows, has no such locks.
    """
    _check_support()
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _check_support() -> None:
    if fcntl is None:
        raise OSError(errno.ENOTSUP, "this system has no file locks of the kind that is used here")
