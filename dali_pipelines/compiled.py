"""Compiles functions with numba and runs them in threads."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numba
import torch
from numba.extending import intrinsic

Function = TypeVar("Function", bound=Callable[..., object])


def compiled(function: Function, fastmath: bool = False) -> Function:
    """Returns the function as numba compiles it at its first call; it runs without the GIL.

    The machine code is cached on disk. Where no folder is writable, each process compiles it again.
    """
    try:
        return numba.njit(function, nogil=True, fastmath=fastmath, cache=True)
    except RuntimeError:
        return numba.njit(function, nogil=True, fastmath=fastmath)


@intrinsic
def fused_multiply_add(_context: Any, _a: Any, _b: Any, _c: Any) -> Any:
    """Returns a * b + c, rounded once, in compiled code. BLAS computes matrix products with it."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.fma(*arguments)

    float64 = numba.types.float64
    return float64(float64, float64, float64), generate


def for_each(number: int, work: Callable[[int], None], num_threads: int | None = None) -> None:
    """Calls work(0), work(1) ... work(number - 1), in threads.

    Args:
        work: calls compiled functions.
        num_threads: number of threads; None: torch.get_num_threads(), which is 1 in a DataLoader's workers.
    """
    num_threads = min(number, torch.get_num_threads() if num_threads is None else num_threads)
    if num_threads > 1:
        # The threads live for this call only: a lasting pool, such as numba's own, would be dead in a forked worker process.
        with ThreadPoolExecutor(num_threads) as pool:
            list(pool.map(work, range(number)))
    else:
        for index in range(number):
            work(index)
