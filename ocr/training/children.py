"""The processes that this program has started."""

import psutil


def kill_children() -> None:
    """Ends the processes that this program started."""
    for process in psutil.Process().children(recursive=True):
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
