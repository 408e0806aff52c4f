"""Predicts, preallocates and releases DALI's memory pools.

DALI keeps one pool of device memory and one of pinned host memory for all pipelines of a process. The pools grow on demand and
shrink only in `release_unused`. PyTorch's allocator works the same way and does not see them.

DALI is imported where its pools are touched: predictions and loader=torch work without it.
"""

import logging
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from dali_pipelines.config import BATCHES_RENDERED_AHEAD, LARGE_SHARE, PipelineConfig

log = logging.getLogger(__name__)

SAFETY = 1.2
"""Safety factor for rounded-up sizes and for free blocks that are too small. Not yet checked on a GPU."""
DECODER_SCRATCH = 2.0
"""Working memory of a JPEG decoder, as a multiple of its output: coefficients take 16 bits per level."""
ENCODED_SHARE = 0.5
"""Upper bound for the bytes of a file per decoded level; JPEGs of full quality come near it."""
RESIZE_BYTES_PER_LEVEL = 4
"""Bytes of a level between the two passes of a resize: DALI resizes one axis after the other and keeps float32 in between."""


@dataclass(frozen=True)
class PoolBytes:
    """Bytes that one pipeline needs. Without a GPU `device` is ordinary RAM, and `pinned` is 0."""

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
    """Returns the predicted peak memory of a split's pipeline, from the upright sizes (N, 2) and the network's input type.

    For an image (H, W), with S the side of the input and (h, w) the largest size it is resized to:

        decoded 3 H W + between the axes of the resize 4 * 3 max(h W, H w) + resized 3 h w
        + warped and recoloured 2 * 3 S S (training) + finished 3 S S itemsize

    DALI prepares `prefetch_queue_depth` batches ahead and holds the one it handed out, so depth + 1 batches are alive. Each is
    counted as a batch of the largest images that `max_batch_megapixels` lets DALI decode together, or of one that it decodes alone,
    whichever takes more: a batch of such images begins with one. Two more of those are counted, as they follow one after the other.
    The decoder's working memory comes on top, on the device for a batch and in pinned RAM for one image per thread; so do the files
    themselves, in pinned RAM. The sum is multiplied by SAFETY. Without a GPU the decoded images of the batches that DALI prepares
    and that the rendering threads hold are counted, and as many rendered ones.
    """
    original = np.asarray(sizes, np.float64).reshape(-1, 2)
    if not len(original):
        return PoolBytes(0, 0)
    side = config.input_size(training)
    num_alive = config.prefetch_queue_depth + (1 if on_gpu else BATCHES_RENDERED_AHEAD)
    resized = largest_resized(original, config, training)
    decoded = 3 * original.prod(axis=1)
    limit = 3e6 * config.max_batch_megapixels
    is_alone = decoded > limit * LARGE_SHARE

    def of_a_batch(per_image: npt.NDArray[np.float64]) -> float:
        """Returns the bytes of the largest batch, from those of each image besides its decoded levels."""
        levels, others = (np.where(is_alone, 0, each) for each in (decoded, per_image))
        bounded = min(_largest_batch(levels + others, batch_size), limit + _largest_batch(others, batch_size))
        return max(bounded, float((decoded + per_image).max()))

    def of_two_alone(per_image: npt.NDArray[np.float64]) -> float:
        return 2 * float(np.where(is_alone, decoded + per_image, 0).max())

    if not on_gpu:
        rendered = np.full(len(original), 3.0 * side**2) if training else 3 * resized.prod(axis=1)
        return PoolBytes(int(SAFETY * (num_alive * of_a_batch(rendered) + of_two_alone(rendered))), 0)
    crossed = np.maximum(original[:, 0] * resized[:, 1], original[:, 1] * resized[:, 0])
    between = RESIZE_BYTES_PER_LEVEL * 3 * crossed + 3 * resized.prod(axis=1) + (2 * 3 * side**2 if training else 0)
    nothing = np.zeros(len(original))
    rest = between + 3 * side**2 * dtype.itemsize
    largest_decoded = of_a_batch(nothing)
    device = num_alive * of_a_batch(rest) + of_two_alone(rest) + DECODER_SCRATCH * largest_decoded
    pinned = ENCODED_SHARE * (num_alive * largest_decoded + of_two_alone(nothing))
    pinned += DECODER_SCRATCH * min(_largest_batch(decoded, num_threads), largest_decoded)
    return PoolBytes(int(SAFETY * device), int(SAFETY * pinned))


def largest_resized(
    original: npt.NDArray[np.float64], config: PipelineConfig, training: bool
) -> npt.NDArray[np.float64]:
    """Returns (N, 2), the largest (h, w) of each resized image. Training resizes only the part that the rotated crop covers.

    A perspective p enlarges what is small within the image by (1 - p)**-1.5 at most, and so does the resize. The way back from the
    crop divides by 1 - 2 p at least, so that distances grow by (1 - 2 p)**-2 at most; see `ocr.datasets.reference_plan`.
    """
    scale = config.image_size / original.max(axis=1, keepdims=True)
    if not training:
        return original * scale
    augmentation = config.augmentation
    angle = math.radians(min(augmentation.rotation_degrees, 45))
    covered = config.crop_size * (math.cos(angle) + math.sin(angle))
    magnification = (1 - augmentation.perspective) ** -1.5
    if config.in_perspective:
        covered = math.sqrt(2) * config.crop_size * magnification / (1 - 2 * augmentation.perspective) ** 2
    return np.minimum(original * scale * augmentation.scale_max * magnification, math.ceil(covered))


def _largest_batch(bytes_per_image: npt.NDArray[np.float64], batch_size: int) -> float:
    """Returns the sum over the `batch_size` largest images."""
    return float(np.sort(bytes_per_image)[::-1][:batch_size].sum())


def preallocate(pools: Sequence[PoolBytes], device: torch.device) -> bool:
    """Preallocates DALI's pools for all pipelines of a run, before the first one is built. Returns whether that worked.

    Does nothing on a CPU. Pools that could not be preallocated grow on demand.
    """
    if device.type != "cuda" or not pools:
        return False
    from nvidia.dali.backend import (  # type: ignore[attr-defined]  # no types are published
        PreallocateDeviceMemory,
        PreallocatePinnedMemory,
    )

    try:
        PreallocateDeviceMemory(sum(pool.device for pool in pools), device.index or 0)
        PreallocatePinnedMemory(sum(pool.pinned for pool in pools))
    except (RuntimeError, MemoryError) as error:  # DALI's own bad_alloc comes out as MemoryError
        log.warning(
            "DALI's memory pools could not be preallocated; they will grow on demand: %s", " ".join(str(error).split())
        )
        release_unused(device)
        return False
    return True


def release_unused(device: torch.device) -> None:
    """Returns the unused memory of DALI's pools and of PyTorch's allocator to the system. Does nothing on a CPU.

    Meant for the pause between two phases of a run; the next phase allocates again.
    """
    if device.type != "cuda":
        return
    if "nvidia.dali" in sys.modules:  # there are no pools before it is imported
        from nvidia.dali.backend import ReleaseUnusedMemory  # type: ignore[attr-defined]  # no types are published

        ReleaseUnusedMemory()
    torch.cuda.empty_cache()
