"""A loader's input and output: planned samples and stored images go in, finished batches come out."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from dali_pipelines.geometry import Matrix


@dataclass(frozen=True)
class PlannedSample:
    """Everything random or derived about one sample of one epoch. A loader executes it and draws nothing itself."""

    index: int
    """Position in the manifest."""
    is_padding: bool
    """True for a repeated sample that only fills up a rank's share; loss and metrics leave it out."""
    region_xyxy: npt.NDArray[np.float32]
    """(4,) the part of the upright original image that is resized, in its pixels."""
    resized_size: tuple[int, int]
    """(H, W) that the region is resized to, with antialiasing."""
    input_from_resized: Matrix
    """(3, 3) the warp from the resized region to the network's input."""
    input_from_original: Matrix
    """(3, 3) resize and warp in one; it moves the polygons."""
    colour_matrix: npt.NDArray[np.float32]
    """(3, 4) RGB levels out = matrix[:, :3] @ RGB levels in + matrix[:, 3]."""
    has_failed: bool = False
    """True if the loader could not read or decode the file: the image is black, and `is_padding` is True as well."""

    def as_failed(self) -> "PlannedSample":
        """Returns the sample marked as failed, so that loss and metrics leave it out."""
        return replace(self, is_padding=True, has_failed=True)


class PlannedBatches(Protocol):
    """The batches of one epoch on one rank."""

    epoch: int

    def __len__(self) -> int:
        """Returns the number of batches."""

    def batch(self, step: int) -> Sequence[PlannedSample]:
        """Returns the samples of batch `step`, at least one."""


class KeptImages(Protocol):
    """Images in memory, by position in the manifest. An image that is not in memory is read from its file."""

    device: torch.device
    """Device of the decoded images."""

    def encoded(self, index: int) -> npt.NDArray[np.uint8] | None:
        """Returns the content of the file, (n,). Raises OSError if it cannot be read."""

    def decoded(self, index: int) -> torch.Tensor | None:
        """Returns (H, W, 3) uint8 RGB, upright, contiguous, on `device`.

        It is never written again, so it may be read at any later time.
        """

    def wants(self, index: int) -> bool:
        """Returns whether this image is to be kept decoded and has not been kept yet."""

    def keep(self, index: int, image: torch.Tensor) -> None:
        """Keeps a copy of a wanted decoded image, (H, W, 3) uint8 on any device."""


@dataclass(frozen=True)
class SourceImages:
    """The stored images of a split: files, and images in memory."""

    paths: Sequence[str]
    """File of each sample index."""
    kept: KeptImages | None = None
    """Images in memory, used in place of the files. A loader hands it each decoded image that it wants."""
    largest_stored: tuple[int, int] | None = None
    """(H, W) that no file exceeds as it is stored; used by `preallocate_decoder`."""


@dataclass(frozen=True)
class ImageBatch:
    """Finished images and the samples they were made from."""

    images: torch.Tensor
    """(B, 3, H, W) float16 or float32, normalised, on the loader's device; uint8 RGB levels from a loader with levels=True. In
    channels_last memory format with output_layout=HWC."""
    samples: tuple[PlannedSample, ...]
    """One per image. A sample that failed keeps its slot; its image is black and it is marked as padding."""


class SampleError(RuntimeError):
    """A file could not be read, decoded or processed; the message names it."""
