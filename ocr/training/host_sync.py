"""Finds operations that make the host wait for the device, for tests. Works on a CPU too, where nothing waits."""

import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

WAITING = ("_local_scalar_dense", "is_nonzero", "nonzero", "masked_select", "equal", "item", "unique")


class ForbidHostSync(TorchDispatchMode):
    """Reports every operation that waits for the device, within its `with` block.

    Args:
        on_sync: receives the operation's name and the stack that called it; None: raise AssertionError.
    """

    def __init__(self, on_sync: Callable[[str, list[str]], None] | None = None) -> None:
        super().__init__()
        self._on_sync = on_sync

    def __torch_dispatch__(
        self, func: Any, types: Sequence[Any], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = func.overloadpacket.__name__
        moves = name == "_to_copy" and "device" in (kwargs or {})
        if name in WAITING or moves:
            if self._on_sync is None:
                raise AssertionError(f"host sync: {name}")
            self._on_sync(name, traceback.format_stack())
        return func(*args, **(kwargs or {}))
