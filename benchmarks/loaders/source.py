"""What every row of the benchmark reads, and what it has to give."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from ocr.targets.target_maps import TargetMaps


class CannotRun(Exception):
    """A row that cannot run here; the message says why, and what to do about it."""


@dataclass(frozen=True)
class Files:
    """The images of one measurement and what becomes of them: the same for all rows.

    Each image is turned upright, resized to its `resized_sizes`, padded right and below with black to a square of `image_size`
    pixels, and normalised: (levels - mean) / std.
    """

    paths: tuple[str, ...]
    """JPEG or PNG files, absolute."""
    orientations: tuple[int, ...]
    """EXIF orientation 1 to 8 of each."""
    original_sizes: tuple[tuple[int, int], ...]
    """(H, W) of each, upright."""
    resized_sizes: tuple[tuple[int, int], ...]
    """(H, W) of each after the resize; the longest side is `image_size`."""
    image_size: int
    mean: tuple[float, float, float]
    """RGB levels."""
    std: tuple[float, float, float]
    batch_size: int
    num_workers: int
    """Worker processes or threads, as the loader has them."""
    device: torch.device
    dtype: torch.dtype
    """Of the finished images: float32 or float16."""
    scratch: Path
    """Folder for what a row has to write."""
    make_targets: Callable[[Sequence[int]], TargetMaps] | None = None
    """Target maps of the images at these places, made on `device` by the calling thread; None: the row gives images alone."""


@dataclass(frozen=True)
class InputBatch:
    """What a training step would get."""

    images: torch.Tensor
    """(B, 3, S, S) normalised, `Files.dtype`, on `Files.device`."""
    indices: tuple[int, ...]
    """Places of the images in `Files.paths`."""
    targets: TargetMaps | None = None


class Source(Protocol):
    """One row: a loader, ready to run. Threads, processes and connections are made in the first epoch and last until `close`."""

    resize_filter: str
    """Name of the filter, as `antialiased triangle`."""
    files_read: Sequence[str]
    """What each epoch reads from disk, also those after the first."""

    def epoch(self) -> Iterator[InputBatch]:
        """Each image once, in order, the last batch smaller if need be; nothing prepared for a later epoch."""

    def decoded(self) -> Iterator[int]:
        """The same pass, but images are only decoded; the number of images of each batch.

        Raises:
            CannotRun: this row decodes nothing.
        """

    def close(self) -> None:
        """Ends threads and processes."""
