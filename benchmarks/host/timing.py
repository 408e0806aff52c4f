"""Measures CPU time on one thread, and how much of that work holds the GIL.

The clock is `time.thread_time`, which counts neither other threads nor other programs.

The GIL share is sampled. While the work repeats, a second thread asks for the GIL each time that the first one has used a random
amount of CPU time: it waits in compiled code, which holds no GIL, notes the time, and returns to Python, which must take the GIL
first. A free GIL is taken within a microsecond or two; a longer wait means that the work held it. The share is that of the waits
above `FREE_NANOSECONDS`, so sections shorter than that count as free.
"""

import ctypes
import sys
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import TypeVar

import numba
import numpy as np
import numpy.typing as npt

Work = Callable[[], object]
Key = TypeVar("Key", bound=Hashable)

GIL_SAMPLES = 1500
"""Number of samples of the GIL; the share is then right to about 2.5 percent."""
LONGEST_PAUSE = 600_000
"""From one sample to the next the work uses 0 to this many nanoseconds of CPU time, drawn evenly."""
POLL_US = 20
"""Pause between two looks at the CPU time of the work."""
FREE_NANOSECONDS = 3000
"""Longest wait for a free GIL. Beside work without the GIL 98 % of the waits took less than 2,400 ns; waits for Python code take
up to `SWITCH_SECONDS`."""
BILLION = 1_000_000_000
GIVE_UP = 2000
"""Number of looks after which the sampler no longer waits for the work, which may have ended."""
SWITCH_SECONDS = 1e-4
"""Switch interval while the GIL is sampled, so that a waiting sampler does not wait for 5 ms."""
NUM_CORES = 16
"""Cores of the machine that `Timing.most_per_second` assumes."""


@dataclass(frozen=True)
class Timing:
    """CPU time of one part, a sample."""

    microseconds: list[float]
    """One value for each repeat."""
    gil_share: float | None = None
    """Share of the time in which the GIL is held; None: not measured."""

    @property
    def median(self) -> float:
        """Median over the repeats."""
        return median(self.microseconds)

    @property
    def most_per_second(self) -> float:
        """Highest rate on `NUM_CORES` cores: they share the processor time, but one thread holds the GIL."""
        return 1e6 / (self.median * max(1 / NUM_CORES, self.gil_share or 0.0))


def summed(timings: Iterable[Timing]) -> Timing:
    """Returns the sum of the parts of one round, for each repeat."""
    return Timing([sum(of_round) for of_round in zip(*(timing.microseconds for timing in timings), strict=True)])


def time_in_turns(works: Mapping[Key, Work], num_samples: int, repeats: int) -> dict[Key, Timing]:
    """Returns the CPU time and the GIL share of each piece of work. They take turns.

    Args:
        works: each call processes `num_samples` samples.
    """
    for work in works.values():  # compiles, and fills caches
        work()
    seconds: dict[Key, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            started = time.thread_time()
            work()
            seconds[name].append(time.thread_time() - started)
    return {
        name: Timing([1e6 * taken / num_samples for taken in seconds[name]], gil_share(work))
        for name, work in works.items()
    }


def gil_share(work: Work) -> float:
    """Returns the share of the time in which the GIL is held while this thread repeats the work."""
    with sampled_gil() as waits:
        while len(waits) < GIL_SAMPLES:
            work()
    return share_held(waits)


def share_held(waits: Sequence[int]) -> float:
    """Returns the share of the waits for the GIL, in nanoseconds, that are too long for a free one."""
    return float(np.mean(np.array(waits) > FREE_NANOSECONDS)) if waits else 0.0


@contextmanager
def sampled_gil() -> Iterator[list[int]]:
    """Asks for the GIL while the block works in this thread. The list receives the nanoseconds of each wait."""
    waits: list[int] = []
    clock = np.zeros(2, np.int64)
    work = time.pthread_getcpuclockid(threading.get_ident())
    _wait_for_work(work, 0, 0, clock)  # compiles
    is_over = threading.Event()

    def sample() -> None:
        pauses = np.random.default_rng(0)
        while not is_over.is_set():
            until = time.clock_gettime_ns(work) + int(pauses.integers(LONGEST_PAUSE))
            _wait_for_work(work, until, GIVE_UP, clock)
            taken = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
            waits.append(taken - int(clock[0]) * BILLION - int(clock[1]))

    thread = threading.Thread(target=sample, name="gil-sampler")
    interval = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_SECONDS)
    thread.start()
    try:
        yield waits
    finally:
        is_over.set()
        thread.join()
        sys.setswitchinterval(interval)


_LIBC = ctypes.CDLL(None)
_usleep, _clock_gettime = _LIBC.usleep, _LIBC.clock_gettime
_usleep.argtypes = [ctypes.c_uint]
_clock_gettime.argtypes = [ctypes.c_int, ctypes.c_void_p]
_MONOTONIC = time.CLOCK_MONOTONIC


@numba.njit(nogil=True)  # not cached on disk: it holds addresses of this process
def _wait_for_work(work: int, until: int, most_polls: int, clock: npt.NDArray[np.int64]) -> None:
    """Waits, without the GIL, until a thread's CPU clock has reached a time; then writes the monotonic clock to `clock`.

    Args:
        work: the thread's clock.
        until: in nanoseconds.
        most_polls: looks at the clock, at most; a thread that sleeps uses no CPU time.
        clock: (2,) receives seconds and nanoseconds.
    """
    for _ in range(most_polls):
        _clock_gettime(work, clock.ctypes)
        if clock[0] * BILLION + clock[1] >= until:
            break
        _usleep(POLL_US)
    _clock_gettime(_MONOTONIC, clock.ctypes)
