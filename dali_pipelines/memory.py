"""DALI's memory: what its pools will take, taking it before the run, giving it back; and telling failed allocations from files
that cannot be decoded.

DALI keeps one pool of device memory and one of pinned host memory for all pipelines of a process. They grow, and shrink only
when they are told to; torch's allocator, which does the same, does not see them.
"""

import errno
import logging
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from nvidia.dali.backend import (  # type: ignore[attr-defined]  # no types are published
    PreallocateDeviceMemory,
    PreallocatePinnedMemory,
    ReleaseUnusedMemory,
)

from dali_pipelines.config import PipelineConfig

log = logging.getLogger(__name__)

SAFETY = 1.2
"""The pools round sizes up, and their free blocks do not always fit. Not yet checked on a GPU."""
DECODER_SCRATCH = 2.0
"""What a JPEG decoder needs beside its output, as a multiple of it: coefficients are 16 bits a level."""
ENCODED_SHARE = 0.5
"""A file has at most so many bytes for one of its pixels' levels; JPEGs of full quality come near it."""
RESIZE_BYTES_PER_LEVEL = 4
"""DALI resizes one axis after the other; between the two the levels are float32."""


@dataclass(frozen=True)
class PoolBytes:
    """What one pipeline takes. Without a GPU all of it is ordinary RAM, and `pinned` is 0."""

    device: int
    pinned: int


def pool_bytes(
    sizes: npt.ArrayLike,
    config: PipelineConfig,
    *,
    training: bool,
    batch_size: int,
    dtype: torch.dtype,
    num_threads: int,
    on_gpu: bool,
) -> PoolBytes:
    """The most memory the pipeline of a split is predicted to take.

    Of each image (H, W), with S the side of the input and (h, w) the size it is resized to at most:

        decoded 3 H W + between the axes of the resize 4 * 3 max(h W, H w) + resized 3 h w
        + warped and recoloured 2 * 3 S S (training) + finished 3 S S itemsize

    DALI prepares `prefetch_queue_depth` batches ahead and holds the one it handed out: depth + 1 batches, each taken to be of the
    largest images and whole. Beside them the decoder's scratch memory, for a batch on a GPU and for one image a thread in pinned
    RAM; and the files themselves, in pinned RAM. All times SAFETY. Without a GPU nothing is kept between decoding and finishing but
    the rendered image of uint8.

    Args:
        sizes: (N, 2) (H, W) of the upright images.
        dtype: of the input.
    """
    original = np.asarray(sizes, np.float64).reshape(-1, 2)
    if not len(original):
        return PoolBytes(0, 0)
    side = config.input_size(training)
    num_alive = config.prefetch_queue_depth + 1
    resized = _largest_resized(original, config, training)
    decoded = 3 * original.prod(axis=1)
    rendered = 3 * side**2 if training else 3 * resized.prod(axis=1)
    if not on_gpu:
        return PoolBytes(int(SAFETY * num_alive * _of_batch(decoded + rendered, batch_size)), 0)
    crossed = np.maximum(original[:, 0] * resized[:, 1], original[:, 1] * resized[:, 0])
    between = RESIZE_BYTES_PER_LEVEL * 3 * crossed + 3 * resized.prod(axis=1) + (2 * 3 * side**2 if training else 0)
    finished = 3 * side**2 * dtype.itemsize
    device = num_alive * _of_batch(decoded + between + finished, batch_size)
    device += DECODER_SCRATCH * _of_batch(decoded, batch_size)
    pinned = num_alive * ENCODED_SHARE * _of_batch(decoded, batch_size)
    pinned += DECODER_SCRATCH * _of_batch(decoded, num_threads)
    return PoolBytes(int(SAFETY * device), int(SAFETY * pinned))


def _largest_resized(
    original: npt.NDArray[np.float64], config: PipelineConfig, training: bool
) -> npt.NDArray[np.float64]:
    """(N, 2) the largest (h, w) that each image is resized to. Training resizes what the turned crop sees, and no more."""
    scale = config.image_size / original.max(axis=1, keepdims=True)
    if not training:
        return original * scale
    augmentation = config.augmentation
    angle = math.radians(min(augmentation.rotation_degrees, 45))
    seen = config.crop_size * (math.cos(angle) + math.sin(angle))
    return np.minimum(original * scale * augmentation.scale_max, math.ceil(seen))


def _of_batch(of_images: npt.NDArray[np.float64], batch_size: int) -> float:
    """The sum over the largest."""
    return float(np.sort(of_images)[::-1][:batch_size].sum())


def preallocate(pools: Sequence[PoolBytes], device: torch.device) -> bool:
    """Makes DALI's pools as large as these pipelines need together, before the first is built; whether they are now.

    Nothing happens on a CPU. Where the memory is not there the pools grow as they are used.
    """
    if device.type != "cuda" or not pools:
        return False
    try:
        PreallocateDeviceMemory(sum(pool.device for pool in pools), device.index or 0)
        PreallocatePinnedMemory(sum(pool.pinned for pool in pools))
    except (RuntimeError, MemoryError) as error:  # DALI's own bad_alloc comes out as MemoryError
        log.warning("DALI's memory pools could not be made as large as planned: %s", " ".join(str(error).split()))
        release_unused(device)
        return False
    return True


def release_unused(device: torch.device) -> None:
    """Gives the free blocks of DALI's pools and of torch's allocator back to the system. For between phases: the next one takes
    what it needs anew. Nothing happens on a CPU."""
    if device.type == "cuda":
        ReleaseUnusedMemory()
        torch.cuda.empty_cache()


Memory = Literal["GPU memory", "pinned RAM", "RAM"]


@dataclass(frozen=True)
class Shortage:
    """An allocation that failed."""

    memory: Memory
    asked_by: str
    asked: int | None
    """Bytes; None where the error does not say."""


_SHORTAGES: tuple[tuple[str, Memory, str], ...] = (
    (r"CUDA out of memory", "GPU memory", "torch"),
    (r"CUDNN_STATUS_\w*HOST_ALLOCATION_FAILED", "RAM", "cuDNN"),
    (r"CUDNN_STATUS_(\w*DEVICE_ALLOCATION|ALLOC)_FAILED|valid cuDNN algorithm", "GPU memory", "cuDNN"),
    (r"CU(BLAS|SOLVER|FFT|SPARSE)_(STATUS_)?ALLOC_FAILED", "GPU memory", "CUDA's libraries"),
    (r"allocate pinned|pinned allocator failed", "pinned RAM", "DALI"),
    (r"Can't allocate \d+ bytes on device|CUDA allocation failed|device allocator failed", "GPU memory", "DALI"),
    (r"NVJPEG_STATUS_ALLOCATOR_FAILURE", "GPU memory", "DALI's decoder"),
    (r"Can't allocate \d+ bytes on host", "RAM", "DALI"),
    (r"cudaErrorMemoryAllocation|CUDA_ERROR_OUT_OF_MEMORY|CUDA error: out of memory", "GPU memory", "CUDA"),
    # Of nvImageCodec's numbers, 5 and 15 are allocations; damaged files have others.
    (r"nvImageCodec failure: '#(5|15)'|std::bad_alloc", "RAM", "DALI"),
    (r"DefaultCPUAllocator", "RAM", "torch"),
    (r"Insufficient memory", "RAM", "OpenCV"),
    (r"DataLoader worker .* killed by signal: Killed", "RAM", "a worker process"),
    (r"MemoryError|Cannot allocate memory", "RAM", "Python"),
)
_ASKED = re.compile(
    r"(?:allocate|Requested size:)\s+(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>bytes|B|KiB|MiB|GiB|TiB|PiB|EiB)\b"
)
_UNITS = {"bytes": 0, "B": 0, "KiB": 1, "MiB": 2, "GiB": 3, "TiB": 4, "PiB": 5, "EiB": 6}


def shortage_of(error: BaseException | None) -> Shortage | None:
    """The failed allocation that an error, or one that led to it, tells of: of torch on either device, DALI, its decoders, CUDA's
    libraries, NumPy or Python. They raise many types; most can be told by their text only."""
    for cause in _chain(error):
        text = str(cause)
        if isinstance(cause, RuntimeError | MemoryError) or type(cause).__module__ == "cv2":
            for pattern, memory, asked_by in _SHORTAGES:
                if re.search(pattern, text):
                    return Shortage(memory, asked_by, _asked(text))
        if isinstance(cause, MemoryError):
            return Shortage("RAM", "Python" if type(cause) is MemoryError else "NumPy", _asked(text))
        if isinstance(cause, OSError) and cause.errno == errno.ENOMEM:
            return Shortage("RAM", "Python", None)
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what it was raised from or during."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _asked(text: str) -> int | None:
    found = _ASKED.search(text)
    return None if found is None else int(float(found["number"]) * 1024 ** _UNITS[found["unit"]])
