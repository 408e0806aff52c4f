"""What a process and its children take, from /proc: in containers too, and without waiting for the children to end."""

import os
import resource
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Usage:
    """Of this process and all below it, since they began."""

    cpu_seconds: float
    """User and system time."""
    read_bytes: int
    """From storage: what the page cache had is not in it."""

    def since(self, earlier: "Usage") -> "Usage":
        return Usage(self.cpu_seconds - earlier.cpu_seconds, self.read_bytes - earlier.read_bytes)


def usage() -> Usage:
    """So far. A child that has ended is still counted."""
    cpu_seconds = sum(
        used.ru_utime + used.ru_stime
        for used in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )
    read_bytes = _read_bytes(os.getpid())
    for child in children():
        cpu_seconds += _cpu_seconds(child)
        read_bytes += _read_bytes(child)
    return Usage(cpu_seconds, read_bytes)


def forget_peak_memory() -> None:
    """`peak_memory` counts from now on, where the system can be told so."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory() -> int:
    """Bytes of RAM: the most this process held, and what its children hold now that is theirs alone."""
    return _kilobytes(os.getpid(), "status", "VmHWM:") + sum(
        _kilobytes(child, "smaps_rollup", "Private_Clean:", "Private_Dirty:") for child in children()
    )


def children(process: int | None = None) -> list[int]:
    """Process numbers of all descendants that run."""
    found: list[int] = []
    for task in Path(f"/proc/{process or os.getpid()}/task").glob("*/children"):
        for child in map(int, _text(task).split()):
            found += [child, *children(child)]
    return found


def _cpu_seconds(process: int) -> float:
    fields = _text(Path(f"/proc/{process}/stat")).rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / TICKS  # utime, stime, and those of its children that have ended


def _read_bytes(process: int) -> int:
    for line in _text(Path(f"/proc/{process}/io")).splitlines():
        if line.startswith("read_bytes:"):
            return int(line.split()[1])
    return 0


def _kilobytes(process: int, file: str, *names: str) -> int:
    lines = _text(Path(f"/proc/{process}/{file}")).splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(names))


def _text(path: Path) -> str:
    """Empty for a process that has ended, or that may not be looked at."""
    try:
        return path.read_text()
    except OSError:
        return ""


def drop_from_page_cache(paths: list[Path]) -> None:
    """Makes the kernel forget what it keeps of these files, so that they are read from storage again."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def flush(paths: Sequence[str]) -> None:
    """To the disk: what is not there yet cannot be dropped from the page cache."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
