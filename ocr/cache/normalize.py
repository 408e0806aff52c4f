"""From the levels of the uint8 tensor cache to the network's input, in one pass over the pixels."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import torch

Channels = tuple[float, float, float]
_BITS = {torch.float16: np.uint16, torch.float32: np.uint32}
"""Unsigned integer of the same width: numba has no float16, and copying a number needs only its bits."""


def normalize_levels(
    levels_BCHW: torch.Tensor,
    mean: Channels,
    std: Channels,
    out: torch.Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """(levels - mean) / std.

    On the CPU each level is looked up in a table of the exact quotients, rounded once; a GPU computes levels * (1 / std) -
    mean / std in float32, in one kernel, and rounds that.

    Args:
        levels_BCHW: (B, 3, H, W) uint8, contiguous, RGB.
        mean, std: RGB levels.
        out: (B, 3, H, W) float16 or float32, contiguous, on the same device, written in place; None makes one.
        dtype: of the one that is made.

    Returns:
        `out`.

    Raises:
        ValueError: a tensor of another shape or type, or one that is not contiguous.
    """
    if out is None:
        out = torch.empty(levels_BCHW.shape, dtype=dtype, device=levels_BCHW.device)
    _check(levels_BCHW, out)
    if levels_BCHW.is_cuda:
        scale, offset = (
            torch.tensor(values, dtype=torch.float32)[:, None, None].to(out.device, non_blocking=True)
            for values in _scale_and_offset(mean, std)
        )
        return torch.addcmul(offset, levels_BCHW, scale, out=out)  # uint8 x float32 is float32; out rounds it
    _look_up_planes(levels_BCHW, _table(mean, std, out.dtype), out)
    return out


def _check(levels_BCHW: torch.Tensor, out: torch.Tensor) -> None:
    if levels_BCHW.dtype != torch.uint8 or levels_BCHW.ndim != 4 or levels_BCHW.shape[1] != 3:
        raise ValueError(
            f"levels are {levels_BCHW.dtype} of shape {tuple(levels_BCHW.shape)}; expected torch.uint8 (B, 3, H, W)"
        )
    if out.dtype not in _BITS or out.shape != levels_BCHW.shape or out.device != levels_BCHW.device:
        raise ValueError(
            f"out is {out.dtype} of shape {tuple(out.shape)} on {out.device}; expected float16 or float32 of shape "
            f"{tuple(levels_BCHW.shape)} on {levels_BCHW.device}"
        )
    if not (levels_BCHW.is_contiguous() and out.is_contiguous()):
        raise ValueError("levels and out must be contiguous")


def _scale_and_offset(mean: Channels, std: Channels) -> tuple[list[float], list[float]]:
    """What levels are multiplied by, and what is then added."""
    return [1 / s for s in std], [-m / s for m, s in zip(mean, std, strict=True)]


def _table(mean: Channels, std: Channels, dtype: torch.dtype) -> npt.NDArray[Any]:
    """(3, 256) the normalised value of each channel and level, as bits of `dtype`."""
    exact = (np.arange(256.0) - np.array(mean)[:, None]) / np.array(std)[:, None]
    # By numpy, which rounds float64 to float16 in one step; torch goes through float32.
    return exact.astype(np.float16 if dtype == torch.float16 else np.float32).view(_BITS[dtype])


def _look_up_planes(levels_BCHW: torch.Tensor, table: npt.NDArray[Any], out: torch.Tensor) -> None:
    height, width = levels_BCHW.shape[2:]
    levels = levels_BCHW.numpy().reshape(-1, height * width)
    bits = out.numpy().view(table.dtype).reshape(-1, height * width)

    def look_up(plane: int) -> None:
        _look_up(levels[plane], table[plane % 3], bits[plane])

    num_threads = min(len(levels), torch.get_num_threads())
    if num_threads > 1:
        # Threads made for this call, as in ocr/targets/numba_maps.py: a lasting pool would be dead in a forked worker.
        with ThreadPoolExecutor(num_threads) as pool:
            list(pool.map(look_up, range(len(levels))))
    else:
        for plane in range(len(levels)):
            look_up(plane)


def _look_up_each(levels: npt.NDArray[np.uint8], table: npt.NDArray[Any], bits: npt.NDArray[Any]) -> None:
    """bits = table[levels]; one dimension."""
    for i in range(len(levels)):
        bits[i] = table[levels[i]]


try:
    _look_up = numba.njit(nogil=True, cache=True)(_look_up_each)
except RuntimeError:  # no folder to keep the compiled code in can be written
    _look_up = numba.njit(nogil=True)(_look_up_each)
