"""Memory of this machine, within the limits of this process's control group."""

import os
from pathlib import Path


def free_ram() -> int:
    """Bytes of RAM that can be taken without swapping, within the limit of this process's control group."""
    return min(_meminfo("MemAvailable"), _cgroup_room())


def total_ram() -> int:
    """Bytes of RAM of this machine, or of this process's control group where that is less."""
    return min(_meminfo("MemTotal"), _cgroup_limit())


def resident_set() -> int:
    """Bytes of RAM that this process holds."""
    num_pages = int(Path("/proc/self/statm").read_text().split()[1])
    return num_pages * os.sysconf("SC_PAGE_SIZE")


def _meminfo(name: str) -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/meminfo has no {name}")


CGROUP = Path("/sys/fs/cgroup")
UNLIMITED = 1 << 62


def _cgroup_limit() -> int:
    return _cgroup_number("memory.max", "memory/memory.limit_in_bytes") or UNLIMITED


def _cgroup_room() -> int:
    used = _cgroup_number("memory.current", "memory/memory.usage_in_bytes") or 0
    return max(_cgroup_limit() - used + _cgroup_file_cache(), 0)


def _cgroup_file_cache() -> int:
    """Bytes of files read lately, which count as used but make room when it is needed."""
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
    """From the file of cgroup version 2 or 1, whichever is there; None: no limit is set."""
    for name in names:
        try:
            return int((CGROUP / name).read_text())
        except (OSError, ValueError):  # not there, or "max"
            continue
    return None
