"""Normalises RGB levels to the network's input, (levels - mean) / std, in one pass over the pixels.

`normalize_levels` takes whole batches on either device: from the uint8 tensor cache, or from PyTorch workers on a GPU.
`ImageFinisher` takes rendered images on the CPU and also pads them. In a GPU's DALI graph, `steps.finish` normalises.

On the CPU each level is looked up in a table, so that float16 costs no more than float32: 0.2 ms for an image of 640 x 640.
"""

import math
import weakref
from collections import deque
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from dali_pipelines.compiled import compiled, for_each
from dali_pipelines.config import PipelineConfig

Channels = tuple[float, float, float]
Layout = Literal["CHW", "HWC"]
_NUMPY = {torch.uint8: np.uint8, torch.float16: np.float16, torch.float32: np.float32}
_BITS = {torch.uint8: np.uint8, torch.float16: np.uint16, torch.float32: np.uint32}
"""Unsigned integer type of the same width. Numba has no float16, and copying a number needs only its bits."""


def input_dtype(config: PipelineConfig, device_type: str) -> torch.dtype:
    """Returns the data type of the network's input on a type of device (cuda, cpu): float16 or float32."""
    return torch.float16 if config.wants_float16(device_type) else torch.float32


def normalize_levels(
    levels_BCHW: torch.Tensor,
    mean: Channels,
    std: Channels,
    out: torch.Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Returns (levels - mean) / std.

    On the CPU each level is looked up in a table of the exact quotients, rounded once. A GPU computes
    levels * (1 / std) - mean / std in float32, in one kernel, and rounds the result. No transfer waits for the GPU.

    Args:
        levels_BCHW: (B, 3, H, W) uint8 RGB levels; on the CPU contiguous, on a GPU in any memory format.
        mean, std: RGB levels.
        out: (B, 3, H, W) float16 or float32 on the same device, contiguous on the CPU; written in place. None allocates a tensor
            of type `dtype` in the memory format of `levels_BCHW`.

    Returns:
        `out`.

    Raises:
        ValueError: a tensor has another shape or type, or is not contiguous on the CPU.
    """
    if out is None:
        out = torch.empty_like(levels_BCHW, dtype=dtype)
    _check(levels_BCHW, out)
    if levels_BCHW.is_cuda:
        scale, offset = (
            torch.tensor(values, dtype=torch.float32)[:, None, None].to(out.device, non_blocking=True)
            for values in _scale_and_offset(mean, std)
        )
        return torch.addcmul(offset, levels_BCHW, scale, out=out)  # uint8 x float32 is float32; out rounds it
    _look_up_planes(levels_BCHW, _table(mean, std, out.dtype), out)
    return out


MAX_UNUSED_BLOCKS = 3
"""Largest number of blocks kept for reuse, however many batches a consumer held at once."""


class BatchMemory:
    """Memory for batches on the CPU, reused as soon as no tensor refers to it.

    The system clears new pages at their first touch, and large blocks are new each time. Normalising one float32 image of 640 x 640
    in a batch of 8 takes 0.26 ms in reused memory and 2 to 5 ms in memory from `torch.empty`. Threads may share it.
    """

    def __init__(self) -> None:
        self._unused = self._no_blocks()

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """Returns an uninitialised contiguous tensor of uint8, float16 or float32."""
        num_bytes = math.prod(shape) * dtype.itemsize
        try:
            memory = self._unused.pop()
        except IndexError:  # asking for the length first would let another thread take the last block in between
            memory = np.empty(0, np.uint8)
        if len(memory) < num_bytes:
            memory = np.empty(num_bytes, np.uint8)
        array = memory[:num_bytes].view(_NUMPY[dtype]).reshape(shape)
        # The tensor and each of its views hold a reference to `array`.
        weakref.finalize(array, self._unused.append, memory).atexit = False
        return torch.from_numpy(array)

    def release(self) -> None:
        """Frees the unused blocks now, and the others as soon as they are unused."""
        self._unused = self._no_blocks()

    @staticmethod
    def _no_blocks() -> deque[npt.NDArray[np.uint8]]:
        return deque(maxlen=MAX_UNUSED_BLOCKS)  # when full, appending drops the oldest block


class ImageFinisher:
    """Makes a batch of rendered images on the CPU: normalised, and padded with black right and below.

    Args:
        size: side of the square images of a batch.
        mean, std: RGB levels.
        dtype: float16 or float32; uint8 keeps the levels.
        layout: memory layout of an image; its shape is (3, size, size) in both.
    """

    def __init__(self, size: int, mean: Channels, std: Channels, dtype: torch.dtype, layout: Layout = "CHW") -> None:
        self.size = size
        self.dtype = dtype
        self.layout = layout
        self.memory = BatchMemory()
        self._table = _table(mean, std, dtype)

    def finish(self, images: Sequence[npt.NDArray[np.uint8]]) -> torch.Tensor:
        """Returns (B, 3, size, size) from B images, (H, W, 3) RGB levels; with layout HWC in channels_last memory format.

        Raises:
            ValueError: an image has another shape or type, or a side longer than `size`.
        """
        batch = self.empty(len(images))
        for_each(len(images), lambda slot: self.write(images[slot], batch, slot))
        return batch

    def empty(self, num_images: int) -> torch.Tensor:
        """Returns an uninitialised batch, (num_images, 3, size, size), for `write`."""
        if self.layout == "CHW":
            return self.memory.empty((num_images, 3, self.size, self.size), self.dtype)
        return self.memory.empty((num_images, self.size, self.size, 3), self.dtype).permute(0, 3, 1, 2)

    def write(self, image: npt.NDArray[np.uint8], batch: torch.Tensor, slot: int) -> None:
        """Writes one image, (H, W, 3) RGB levels, into a slot of a batch from `empty`. Threads may write different slots.

        Raises:
            ValueError: the image has another shape or type, or a side longer than `size`.
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or max(image.shape[:2]) > self.size:
            raise ValueError(
                f"an image is {image.dtype} of shape {image.shape}; expected uint8 (H, W, 3), H and W at most {self.size}"
            )
        if self.layout == "CHW":
            bits = batch[slot].numpy().view(self._table.dtype)
            _finish_planes(np.ascontiguousarray(image), self._table, bits)
        else:
            bits = batch[slot].permute(1, 2, 0).numpy().view(self._table.dtype)
            _finish_pixels(np.ascontiguousarray(image), self._table, bits)


def _check(levels_BCHW: torch.Tensor, out: torch.Tensor) -> None:
    if levels_BCHW.dtype != torch.uint8 or levels_BCHW.ndim != 4 or levels_BCHW.shape[1] != 3:
        raise ValueError(
            f"levels are {levels_BCHW.dtype} of shape {tuple(levels_BCHW.shape)}; expected torch.uint8 (B, 3, H, W)"
        )
    if (
        out.dtype not in (torch.float16, torch.float32)
        or out.shape != levels_BCHW.shape
        or out.device != levels_BCHW.device
    ):
        raise ValueError(
            f"out is {out.dtype} of shape {tuple(out.shape)} on {out.device}; expected float16 or float32 of shape "
            f"{tuple(levels_BCHW.shape)} on {levels_BCHW.device}"
        )
    if not levels_BCHW.is_cuda and not (levels_BCHW.is_contiguous() and out.is_contiguous()):
        raise ValueError("levels and out must be contiguous on the CPU")


def _scale_and_offset(mean: Channels, std: Channels) -> tuple[list[float], list[float]]:
    """Returns the factor and the offset per channel: levels * factor + offset is the normalised value."""
    return [1 / s for s in std], [-m / s for m, s in zip(mean, std, strict=True)]


def _table(mean: Channels, std: Channels, dtype: torch.dtype) -> npt.NDArray[Any]:
    """Returns (3, 256), the result for each level of each channel, as bits of `dtype`; for uint8 the levels themselves."""
    levels = np.arange(256.0)
    if dtype == torch.uint8:
        return np.tile(levels.astype(np.uint8), (3, 1))
    exact = (levels - np.array(mean)[:, None]) / np.array(std)[:, None]
    # NumPy rounds float64 to float16 in one step; torch goes through float32.
    return exact.astype(_NUMPY[dtype]).view(_BITS[dtype])


def _look_up_planes(levels_BCHW: torch.Tensor, table: npt.NDArray[Any], out: torch.Tensor) -> None:
    height, width = levels_BCHW.shape[2:]
    levels = levels_BCHW.numpy().reshape(-1, height * width)
    bits = out.numpy().view(table.dtype).reshape(-1, height * width)
    for_each(len(levels), lambda plane: _look_up(levels[plane], table[plane % 3], bits[plane]))


@compiled
def _look_up(levels: npt.NDArray[np.uint8], table: npt.NDArray[Any], bits: npt.NDArray[Any]) -> None:
    """Writes table[levels] into `bits`; all are one-dimensional."""
    for i in range(len(levels)):
        bits[i] = table[levels[i]]


@compiled
def _finish_planes(levels_HWC: npt.NDArray[np.uint8], table: npt.NDArray[Any], bits_CHW: npt.NDArray[Any]) -> None:
    """Writes one image in planes: table[channel, level], and table[channel, 0] in the padding right and below."""
    height, width = levels_HWC.shape[:2]
    for y in range(height):
        for x in range(width):
            for c in range(3):  # a constant range, which the compiler unrolls
                bits_CHW[c, y, x] = table[c, levels_HWC[y, x, c]]
        for c in range(3):
            bits_CHW[c, y, width:] = table[c, 0]
    for c in range(3):
        bits_CHW[c, height:] = table[c, 0]


@compiled
def _finish_pixels(levels_HWC: npt.NDArray[np.uint8], table: npt.NDArray[Any], bits_HWC: npt.NDArray[Any]) -> None:
    """Writes one image pixel by pixel; otherwise as `_finish_planes`."""
    height, width = levels_HWC.shape[:2]
    for y in range(bits_HWC.shape[0]):
        used = width if y < height else 0
        for x in range(used):
            for c in range(3):
                bits_HWC[y, x, c] = table[c, levels_HWC[y, x, c]]
        for x in range(used, bits_HWC.shape[1]):
            for c in range(3):
                bits_HWC[y, x, c] = table[c, 0]
