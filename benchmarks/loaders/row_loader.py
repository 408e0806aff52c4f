"""The interface of a row's loader: the files it reads, the batches it gives."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from ocr.polygons import PolygonBatch
from ocr.targets.target_maps import TargetMaps


class CannotRun(Exception):
    """A row that cannot run here; the message says why, and how to change that."""


@dataclass(frozen=True)
class RivalFiles:
    """The images of one measurement and the inputs to make from them, the same for all rivals.

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
    """Worker processes or threads, whichever the loader has."""
    device: torch.device
    dtype: torch.dtype
    """Type of the finished images: float32 or float16."""
    scratch: Path
    """Folder that a row may write into."""
    make_targets: Callable[[Sequence[int]], TargetMaps] | None = None
    """Makes the target maps of the images at these places, on `device`, in the calling thread; None: batches have no targets."""


@dataclass(frozen=True)
class InputBatch:
    """The input of one training step."""

    images: torch.Tensor
    """(B, 3, S, S) normalised, `RivalFiles.dtype`, on `RivalFiles.device`."""
    indices: tuple[int, ...]
    """Places of the images in `RivalFiles.paths`."""
    targets: TargetMaps | None = None
    move_polygons: Callable[[], PolygonBatch] | None = None
    """Returns the polygons in the input frame as the row has moved them; None: the row moves none."""


class RowLoader(Protocol):
    """A loader that is ready to run. Threads, processes and connections start in the first epoch and last until `close`."""

    resize_filter: str
    """Name of the filter, e.g. `antialiased triangle`."""
    files_read: Sequence[str]
    """Files that every epoch reads from disk, those after the first included."""

    def epoch(self) -> Iterator[InputBatch]:
        """Yields each image once, in order; the last batch may be smaller. Prepares nothing for a later epoch."""

    def decoded(self) -> Iterator[int]:
        """Only decodes the images of an epoch and yields the number of images of each batch.

        Raises:
            CannotRun: this row decodes nothing.
        """

    def close(self) -> None:
        """Ends threads and processes."""
