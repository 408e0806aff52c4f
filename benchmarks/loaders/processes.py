"""CPU time, disk reads and memory of this process and all its descendants; the page cache."""

import os
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True)
class Usage:
    """Resources that this process and its descendants have used since they began."""

    cpu_seconds: float
    """User and system time."""
    read_bytes: int
    """Bytes read from storage; reads that the page cache served are not counted."""

    def since(self, earlier: "Usage") -> "Usage":
        return Usage(self.cpu_seconds - earlier.cpu_seconds, self.read_bytes - earlier.read_bytes)


def usage() -> Usage:
    """Returns the usage so far. CPU time of descendants that have ended is included."""
    this = psutil.Process()
    ended = this.cpu_times()
    # psutil counts in ticks of 10 ms, Python in nanoseconds.
    cpu_seconds = time.process_time() + ended.children_user + ended.children_system
    read_bytes = this.io_counters().read_bytes
    for child in this.children(recursive=True):
        with suppress(psutil.Error):  # it has ended meanwhile: its parent's times include it now
            cpu_seconds += sum(child.cpu_times()[:4])  # user, system, and the same of its children that have ended
            read_bytes += child.io_counters().read_bytes
    return Usage(cpu_seconds, read_bytes)


def reset_peak_memory() -> None:
    """Makes `peak_memory` start from now, where the kernel allows it."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory() -> int:
    """Returns bytes of RAM: the most that this process has held, and what its descendants hold alone now."""
    status = Path("/proc/self/status").read_text()  # psutil has no VmHWM
    peak = next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            peak += child.memory_full_info().uss
    return peak


def kill_tree(pid: int) -> None:
    """Kills a process and all its descendants."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for each in (*process.children(recursive=True), process):
            with suppress(psutil.NoSuchProcess):
                each.kill()


def drop_from_page_cache(paths: Iterable[str]) -> None:
    """Makes the next read of these files come from storage."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def flush(paths: Iterable[str]) -> None:
    """Writes files to the disk; only then can they be dropped from the page cache."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
