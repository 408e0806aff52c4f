"""Recognises failed allocations among the errors of PyTorch, DALI, CUDA's libraries, OpenCV, NumPy and Python.

They raise many types, and often only the text tells a failed allocation from another error. Without this check, an image would be
blamed for a machine that is out of memory.
"""

import errno
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Memory = Literal["GPU memory", "pinned RAM", "RAM"]


@dataclass(frozen=True)
class FailedAllocation:
    """An allocation that failed."""

    memory: Memory
    requested_by: str
    num_bytes: int | None
    """Requested size; None where the error does not state it."""


_MESSAGES: tuple[tuple[str, Memory, str], ...] = (
    (r"CUDA out of memory", "GPU memory", "torch"),
    (r"CUDNN_STATUS_\w*HOST_ALLOCATION_FAILED", "RAM", "cuDNN"),
    (r"CUDNN_STATUS_(\w*DEVICE_ALLOCATION|ALLOC)_FAILED", "GPU memory", "cuDNN"),
    # A convolution for which no algorithm finds memory for its workspace. PyTorch has tried all of them and names none.
    (r"valid cuDNN algorithm|unable to find an engine to execute this computation", "GPU memory", "cuDNN"),
    (r"CU(BLAS|SOLVER|FFT|SPARSE)_(STATUS_)?ALLOC_FAILED", "GPU memory", "CUDA's libraries"),
    (r"allocate pinned|pinned allocator failed", "pinned RAM", "DALI"),
    (r"Can't allocate \d+ bytes on device|CUDA allocation failed|device allocator failed", "GPU memory", "DALI"),
    (r"NVJPEG_STATUS_ALLOCATOR_FAILURE", "GPU memory", "DALI's decoder"),
    (r"Can't allocate \d+ bytes on host", "RAM", "DALI"),
    (r"cudaErrorMemoryAllocation|CUDA_ERROR_OUT_OF_MEMORY|CUDA error: out of memory", "GPU memory", "CUDA"),
    # nvImageCodec reports failed allocations as 5 and 15, damaged files under other numbers.
    (r"nvImageCodec failure: '#(5|15)'|std::bad_alloc", "RAM", "DALI"),
    (r"DefaultCPUAllocator", "RAM", "torch"),
    (r"Insufficient memory", "RAM", "OpenCV"),
    (r"DataLoader worker .* killed by signal: Killed", "RAM", "a worker process"),
    (r"MemoryError|Cannot allocate memory", "RAM", "Python"),
)
_SIZE = re.compile(
    r"(?:allocate|Requested size:)\s+(?P<number>\d+(?:\.\d*)?)\s*(?P<unit>bytes|B|KiB|MiB|GiB|TiB|PiB|EiB)\b"
)
_UNITS = {"bytes": 0, "B": 0, "KiB": 1, "MiB": 2, "GiB": 3, "TiB": 4, "PiB": 5, "EiB": 6}


def find_failed_allocation(error: BaseException | None) -> FailedAllocation | None:
    """Returns the failed allocation behind an error, or behind an error that caused it; None if there is none."""
    for cause in _causes(error):
        text = str(cause)
        if isinstance(cause, RuntimeError | MemoryError) or type(cause).__module__ == "cv2":
            for pattern, memory, requested_by in _MESSAGES:
                if re.search(pattern, text):
                    return FailedAllocation(memory, requested_by, _num_bytes(text))
        if isinstance(cause, MemoryError):
            return FailedAllocation("RAM", "Python" if type(cause) is MemoryError else "NumPy", _num_bytes(text))
        if isinstance(cause, OSError) and cause.errno == errno.ENOMEM:
            return FailedAllocation("RAM", "Python", None)
    return None


def reraise_if_out_of_memory(error: Exception) -> None:
    """Re-raises errors that come from a failed allocation: no file is at fault, and the next batch would fail as well."""
    if find_failed_allocation(error) is not None:
        raise error


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yields the error, then the error it was raised from, and so on."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _num_bytes(text: str) -> int | None:
    found = _SIZE.search(text)
    return None if found is None else int(float(found["number"]) * 1024 ** _UNITS[found["unit"]])
