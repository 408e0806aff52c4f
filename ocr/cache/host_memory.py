"""Allocates the RAM of the entries: exactly the planned bytes, pinned where a GPU reads them, returned to the system when unused.

torch's pinned tensors would not do. Its allocator rounds each of them up to a power of two, so that 63 GB of planned entries took
120 GB, and it keeps freed memory for the process.
"""

import mmap
import os
import sys

import torch

PORTABLE = 1
"""cudaHostRegisterPortable: the memory counts as pinned for every GPU of this process."""


def allocate_host_memory(num_bytes: int, gpu: torch.device | None) -> torch.Tensor:
    """Returns (num_bytes,) uint8 in RAM, in whole pages of its own, zeros. It is unmapped with the last tensor that views it.

    Args:
        gpu: pin the memory for copies to this GPU; None: ordinary memory.

    Raises:
        RuntimeError: the memory cannot be pinned.
    """
    if not num_bytes:
        return torch.empty(0, dtype=torch.uint8)
    # A forked worker must not cause the pages that a GPU reads to be copied on the next write: shared pages never are.
    sharing = mmap.MAP_PRIVATE if gpu is None else mmap.MAP_SHARED
    pages = _Pages(-1, num_bytes, flags=mmap.MAP_ANONYMOUS | sharing)
    memory = torch.frombuffer(pages, dtype=torch.uint8)  # holds a reference to `pages`
    if gpu is not None:
        pages.pin(memory.data_ptr(), gpu)
    return memory


class _Pages(mmap.mmap):
    """Anonymous pages that are unpinned before they are unmapped."""

    _pinned: tuple[int, torch.device, int] | None = None
    """Address, GPU, and the process that pinned the pages."""

    def pin(self, address: int, gpu: torch.device) -> None:
        with torch.cuda.device(gpu):
            error = int(torch.cuda.cudart().cudaHostRegister(address, len(self), PORTABLE))
        if error:
            raise RuntimeError(
                f"{len(self) / 1e9:.2f} GB of RAM for cached entries could not be pinned (cudaError {error}): "
                "set cache_config.ram_budget to fewer bytes"
            )
        self._pinned = (address, gpu, os.getpid())

    def __del__(self) -> None:
        # A forked process has no CUDA context, and at the end of the interpreter the driver unpins the pages itself.
        if self._pinned is None or self._pinned[2] != os.getpid() or sys.is_finalizing():
            return
        address, gpu, _ = self._pinned
        with torch.cuda.device(gpu):
            torch.cuda.synchronize()  # a copy that has been queued may still read these pages
            torch.cuda.cudart().cudaHostUnregister(address)
