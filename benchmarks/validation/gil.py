"""Measures for how long a function holds Python's global interpreter lock (GIL).

CPython has no counter of this. Its flag `locked` is one int in the interpreter's state, though. A compiled loop in a second thread,
which needs no GIL itself, reads that flag some hundred million times per second while the function runs. So the function is not
slowed down, and nothing is inferred from how long it waits for others.
"""

import ctypes
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt

STATE_BYTES = 1 << 20
"""Bytes after the start of CPython's runtime state in which the flag is searched."""
Ints = npt.NDArray[np.int32]


class HostTime(NamedTuple):
    """Time of one call."""

    cpu_ms: float
    """Processor time of the calling thread."""
    held_ms: float
    """Part of it under the GIL."""


class GilWatch:
    """Measures functions that run in the calling thread. No other Python thread may run meanwhile.

    Raises:
        RuntimeError: the flag was not found; this is not a CPython that the search knows.
    """

    def __init__(self) -> None:
        self._flag = _find_flag()
        self._watch_once()  # compiles

    def measure(self, function: Callable[[], object]) -> HostTime:
        """Returns the time that one call of the function takes."""
        stop, counts = np.zeros(1, np.int32), np.zeros(2, np.int64)
        watcher = threading.Thread(target=_watch, args=(self._flag, stop, counts))
        watcher.start()
        while counts[1] == 0:  # the watcher has not started yet
            time.sleep(1e-3)
        before = counts.copy()
        started = time.thread_time()
        function()
        cpu_ms = (time.thread_time() - started) * 1e3
        held, total = (counts - before).tolist()
        stop[0] = 1
        watcher.join()
        # The two counters are written one after the other, so with few readings one may be ahead.
        return HostTime(cpu_ms, cpu_ms * min(held / max(total, 1), 1.0))

    def _watch_once(self) -> None:
        _watch(self._flag, np.ones(1, np.int32), np.zeros(2, np.int64))


@numba.njit(nogil=True)
def _watch(flag: Ints, stop: Ints, counts: npt.NDArray[np.int64]) -> None:
    """Counts the readings of a flag that are 1, and all readings, until it is told to stop."""
    while True:
        held = 0
        for _ in range(64):
            # The store may change the flag as far as the compiler knows, so that it reads the flag each time.
            counts[1] += 1
            held += flag[0]
        counts[0] += held
        if stop[0] != 0:
            return


def _find_flag() -> Ints:
    """Returns the view of the int that is 1 whenever a Python thread holds the GIL, and 0 otherwise."""
    state = _runtime_state()
    held, released = np.empty_like(state), np.empty_like(state)
    is_flag = np.ones(len(state), np.bool_)
    for _ in range(20):
        _copy_held(state, held)
        _copy_released(state, released)
        is_flag &= (held == 1) & (released == 0)
    (places,) = np.nonzero(is_flag)
    if len(places) == 0:
        raise RuntimeError("the flag of the GIL was not found; the measurement needs CPython 3.10 to 3.13 with a GIL")
    return state[places[0] : places[0] + 1]


def _runtime_state() -> Ints:
    """Returns CPython's runtime state as ints, as far as it lies in mapped memory."""
    start = ctypes.addressof(ctypes.c_char.in_dll(ctypes.pythonapi, "_PyRuntime"))
    end = start
    with open("/proc/self/maps") as lines:
        for line in lines:
            addresses, access, _, _, inode, *_ = line.split()
            first, last = (int(address, 16) for address in addresses.split("-"))
            # Only CPython's own data and the zeros after them: a mapped file may be shorter than its mapping.
            is_own = first <= start < last or inode == "0"
            if first <= end < last and is_own and access.startswith("rw"):
                end = min(last, start + STATE_BYTES)
    number = (end - start) // 4
    return np.ctypeslib.as_array(ctypes.cast(start, ctypes.POINTER(ctypes.c_int32)), (number,))


@numba.njit(nogil=False)
def _copy_held(source: Ints, target: Ints) -> None:
    for place in range(len(source)):
        target[place] = source[place]


@numba.njit(nogil=True)
def _copy_released(source: Ints, target: Ints) -> None:
    for place in range(len(source)):
        target[place] = source[place]
