"""Copies from the device that nothing waits for until their numbers are needed."""

import torch


class HostCopy:
    """A copy of a tensor to the host, started now.

    On a CPU it is the tensor itself, which must therefore not change any more.
    """

    def __init__(self, tensor: torch.Tensor) -> None:
        self._on_host = tensor
        self._device = tensor.device
        self._copied: torch.cuda.Event | None = None
        if tensor.is_cuda:
            self._on_host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._on_host.copy_(tensor, non_blocking=True)
            # A waiting thread sleeps: the thread that launches kernels needs the core.
            self._copied = torch.cuda.Event(blocking=True)
            self._copied.record(torch.cuda.current_stream(tensor.device))

    def wait(self) -> torch.Tensor:
        """Waits for the copy and returns it. Any thread may call this."""
        if self._copied is not None:
            # A new thread is on GPU 0: there, waiting would create a CUDA context of half a gigabyte for a rank of another GPU.
            with torch.cuda.device(self._device):
                self._copied.synchronize()
        return self._on_host
