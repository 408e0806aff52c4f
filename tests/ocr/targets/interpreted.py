"""Runs the Triton kernel on the CPU in Triton's interpreter, in a process of its own.

Triton decides when it is imported whether it interprets. Started as a program with TRITON_INTERPRET=1, this file answers pickled
arguments on its standard input with pickled maps, or with the names of PyTorch's operations on the way to them.
"""

import os
import pickle
import subprocess
import sys
from dataclasses import astuple
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ocr.polygons import PolygonBatch
from ocr.targets.config import TargetConfig
from ocr.targets.target_maps import TargetMaps


class InterpretedKernel:
    """`make_targets_triton` on the CPU; to be closed."""

    def __init__(self) -> None:
        environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, __file__]
        self._process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __call__(
        self, polygons_input: PolygonBatch, size: tuple[int, int], config: TargetConfig, **options: Any
    ) -> TargetMaps:
        """Returns the maps of a batch."""
        arrays, _ = self._answer(polygons_input, size, config, options)
        return TargetMaps(*(torch.from_numpy(array) for array in arrays))

    def operations(self, polygons_input: PolygonBatch, size: tuple[int, int], config: TargetConfig) -> list[str]:
        """Returns the names of PyTorch's operations on the way to the maps; the kernel is none."""
        return self._answer(polygons_input, size, config, {})[1]

    def close(self) -> None:
        self._process.communicate()

    def _answer(self, *arguments: Any) -> Any:
        pickle.dump(arguments, self._process.stdin)
        self._process.stdin.flush()
        return pickle.load(self._process.stdout)


class CountOperations(TorchDispatchMode):
    """Lists PyTorch's operations."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def answer_all() -> None:
    from ocr.targets.triton_maps import make_targets_triton

    torch.set_num_threads(1)
    while True:
        try:
            polygons_input, size, config, options = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        with CountOperations() as counted:
            maps = make_targets_triton(polygons_input, size, config, "cpu", **options)
        pickle.dump(([array.numpy() for array in astuple(maps)], counted.names), sys.stdout.buffer)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    answer_all()
