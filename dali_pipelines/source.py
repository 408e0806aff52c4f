"""What one sample tells DALI: its file or kept image, the region to resize, the warp and the colour matrix."""

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
    """A repeat that only fills up a rank's share: left out of loss and metrics."""
    region_xyxy: npt.NDArray[np.float32]
    """(4,) the part of the original (upright) image that is resized, in its pixels."""
    resized_size: tuple[int, int]
    """(H, W) that the region is resized to, antialiased."""
    input_from_resized: Matrix
    """(3, 3) the warp from the resized region to the network's input."""
    input_from_original: Matrix
    """(3, 3) the whole way; polygons move by it."""
    colour_matrix: npt.NDArray[np.float32]
    """(3, 4) RGB levels out = matrix[:, :3] @ RGB levels in + matrix[:, 3]."""
    has_failed: bool = False
    """Set by a loader that could not read or decode the file: the image is black, and `is_padding` is set too."""

    def as_failed(self) -> "PlannedSample":
        """The same sample, left out of loss and metrics because of its file."""
        return replace(self, is_padding=True, has_failed=True)


class KeptImages(Protocol):
    """Images that are in memory already, by position in the manifest. Those that are not are read from their files."""

    device: torch.device
    """Where decoded images are."""

    def encoded(self, index: int) -> npt.NDArray[np.uint8] | None:
        """(n,) content of the file. Raises OSError where it cannot be read."""

    def decoded(self, index: int) -> torch.Tensor | None:
        """(H, W, 3) uint8 RGB, upright, contiguous, on `device`. Never written again, so it may be read at any later time."""

    def wants(self, index: int) -> bool:
        """Whether there is room for this image, decoded, and it is not there yet."""

    def keep(self, index: int, image: torch.Tensor) -> None:
        """Takes a copy of a decoded image, (H, W, 3) uint8 on any device, that is wanted."""


class PlannedBatches(Protocol):
    """The batches of one epoch on one rank."""

    epoch: int

    def __len__(self) -> int:
        """Number of batches."""

    def batch(self, step: int) -> Sequence[PlannedSample]:
        """The samples of batch `step`; never empty."""
