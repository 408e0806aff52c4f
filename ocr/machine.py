"""Reads the memory of this machine, within the limits of this process's control groups."""

from pathlib import Path

import psutil

CGROUP = Path("/sys/fs/cgroup")
PROCESS_GROUPS = Path("/proc/self/cgroup")
UNLIMITED = 1 << 62


def free_ram() -> int:
    """Returns the bytes of RAM that can be taken without swapping, within the limits of this process's control groups."""
    return min(psutil.virtual_memory().available, _cgroup_room())


def total_ram() -> int:
    """Returns the bytes of RAM of this machine, or the lowest limit of this process's control groups."""
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
    return min(map(_limit, _control_groups()))


def _cgroup_room() -> int:
    return min(map(_room, _control_groups()))


def _control_groups() -> list[Path]:
    """Returns the folders of this process's control group and of the groups around it, whose limits hold for it too.

    SLURM and systemd give a job a group of its own; a container usually sees its group as the root.
    """
    groups = [CGROUP, CGROUP / "memory"]  # the roots of version 2 and of version 1
    try:
        lines = PROCESS_GROUPS.read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            group = groups[0]
        elif "memory" in controllers.split(","):
            group = groups[1]
        else:
            continue
        names = Path(path).parts[1:]
        if ".." not in names:  # otherwise the group lies outside what this process sees
            groups += [group.joinpath(*names[:depth]) for depth in range(1, len(names) + 1)]
    return groups


def _limit(group: Path) -> int:
    return _number(group, "memory.max", "memory.limit_in_bytes") or UNLIMITED


def _room(group: Path) -> int:
    used = _number(group, "memory.current", "memory.usage_in_bytes") or 0
    return max(_limit(group) - used + _file_cache(group), 0)


def _file_cache(group: Path) -> int:
    """Returns the bytes of cached file pages: they count as used, but are freed when memory is needed."""
    try:
        lines = (group / "memory.stat").read_text().splitlines()
    except OSError:
        return 0
    numbers = dict(line.split() for line in lines)
    # Version 1 counts the groups inside only under the name total_inactive_file, version 2 has no such name.
    return int(numbers.get("total_inactive_file", numbers.get("inactive_file", 0)))


def _number(group: Path, *names: str) -> int | None:
    """Returns the number in the file of control groups version 2 or 1, whichever exists; None if there is no limit."""
    for name in names:
        try:
            return int((group / name).read_text())
        except (OSError, ValueError):  # missing, or "max"
            continue
    return None
