"""A GPU without a GPU: its tensors have a device, a type and a shape, but no data.

It shows tensors that were left on the CPU, as operations on both devices are errors, and operations that would make the host wait.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from ocr.training.host_sync import WAITING


@contextmanager
def fake_gpu() -> Iterator[list[str]]:
    """Gives `torch.device("cuda")` to the tensors of the `with` block. Yields the operations in it that would wait for the GPU."""
    with FakeTensorMode(), _Waits() as watched:
        yield watched.names


class _Waits(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Sequence[Any], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given, name = kwargs or {}, func.overloadpacket.__name__
        if self._waits(name, args, given):
            self.names.append(name)
        return func(*args, **given)

    @staticmethod
    def _waits(name: str, args: Sequence[Any], given: Mapping[str, Any]) -> bool:
        if name in WAITING:
            return bool(args[0].is_cuda)
        if name == "_to_copy":
            moves = torch.device(given.get("device") or args[0].device).type != args[0].device.type
            return moves and not given.get("non_blocking")
        if name == "copy_":
            return args[0].device.type != args[1].device.type and not (given.get("non_blocking") or any(args[2:]))
        if name in ("index", "index_put_", "_index_put_impl_"):
            # A mask is counted first; an index of the host is copied.
            return args[0].is_cuda and any(i is not None and (i.dtype == torch.bool or not i.is_cuda) for i in args[1])
        return False
