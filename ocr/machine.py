"""Reads the memory of this machine, within the limits of this process's control group."""

from pathlib import Path

import psutil

CGROUP = Path("/sys/fs/cgroup")
UNLIMITED = 1 << 62


def free_ram() -> int:
    """Returns the bytes of RAM that can be taken without swapping, within the limit of this process's control group."""
    return min(psutil.virtual_memory().available, _cgroup_room())


def total_ram() -> int:
    """Returns the bytes of RAM of this machine, or the limit of this process's control group if it is lower."""
    return min(psutil.virtual_memory().total, _cgroup_limit())


def resident_set() -> int:
    """Returns the bytes of RAM that this process holds."""
    return int(psutil.Process().memory_info().rss)


def address_space_limit() -> int | None:
    """Returns the bytes that this process may map (ulimit -v); None if there is no limit, as on Windows."""
    try:
        import resource
    except ImportError:
        return None
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def _cgroup_limit() -> int:
    return _cgroup_number("memory.max", "memory/memory.limit_in_bytes") or UNLIMITED


def _cgroup_room() -> int:
    used = _cgroup_number("memory.current", "memory/memory.usage_in_bytes") or 0
    return max(_cgroup_limit() - used + _cgroup_file_cache(), 0)


def _cgroup_file_cache() -> int:
    """Returns the bytes of cached file pages: they count as used, but are freed when memory is needed."""
    for name in ("memory.stat", "memory/memory.stat"):
        try:
            lines = (CGROUP / name).read_text().splitlines()
        except OSError:
            continue
        return sum(
            int(line.split()[1]) for line in lines if line.split()[0] in ("inactive_file", "total_inactive_file")
        )
    return 0


def _cgroup_number(*names: str) -> int | None:
    """Returns the number in the file of control groups version 2 or 1, whichever exists; None if there is no limit."""
    for name in names:
        try:
            return int((CGROUP / name).read_text())
        except (OSError, ValueError):  # missing, or "max"
            continue
    return None
