"""Functions compiled by numba, and threads that run them side by side."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numba
import torch

Function = TypeVar("Function", bound=Callable[..., object])


def compiled(function: Function, fastmath: bool = False) -> Function:
    """The function, compiled at its first call and kept on disk; once a process where no folder can be written. It lets go of
    the GIL."""
    try:
        return numba.njit(function, nogil=True, fastmath=fastmath, cache=True)
    except RuntimeError:
        return numba.njit(function, nogil=True, fastmath=fastmath)


def for_each(number: int, work: Callable[[int], None], num_threads: int | None = None) -> None:
    """work(0), work(1) ... work(number - 1).

    Args:
        work: calls compiled functions.
        num_threads: that work at the same time; torch.get_num_threads() when not given, which is 1 in the worker processes of
            a DataLoader.
    """
    num_threads = min(number, torch.get_num_threads() if num_threads is None else num_threads)
    if num_threads > 1:
        # Threads made for this call: a lasting pool, numba's own too, would be dead in a forked worker process.
        with ThreadPoolExecutor(num_threads) as pool:
            list(pool.map(work, range(number)))
    else:
        for each in range(number):
            work(each)
