"""A loader's input and output: planned samples and stored images go in, finished batches come out."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch

from dali_pipelines.geometry import Matrix


@dataclass(frozen=True)
class PlannedSample:
    """One row of a `PlannedBatch`, for code that handles single images."""

    index: int
    is_padding: bool
    region_xyxy: npt.NDArray[np.float32]
    resized_size: tuple[int, int]
    input_from_resized: Matrix
    input_from_original: Matrix
    colour_matrix: npt.NDArray[np.float32]
    has_failed: bool = False


@dataclass(frozen=True)
class PlannedBatch:
    """Everything random or derived about the B samples of a batch. A loader executes it and draws nothing itself."""

    indices: npt.NDArray[np.int64]
    """(B,) positions in the manifest."""
    is_padding: npt.NDArray[np.bool_]
    """(B,) True for a repeated sample that only fills up a rank's share; loss and metrics leave it out."""
    has_failed: npt.NDArray[np.bool_]
    """(B,) True if the loader could not read or decode the file: the image is black, and `is_padding` is True as well."""
    regions_xyxy: npt.NDArray[np.float32]
    """(B, 4) the part of each upright original image that is resized, in its pixels."""
    resized_sizes: npt.NDArray[np.int64]
    """(B, 2) the (H, W) that each region is resized to, with antialiasing."""
    input_from_resized: npt.NDArray[np.float64]
    """(B, 3, 3) the warps from the resized regions to the network's input: affine, unless training images are in perspective."""
    input_from_original: npt.NDArray[np.float64]
    """(B, 3, 3) resize and warp in one; they move the polygons."""
    colour_matrices: npt.NDArray[np.float32]
    """(B, 3, 4) RGB levels out = matrix[:, :3] @ RGB levels in + matrix[:, 3]."""

    @classmethod
    def concatenate(cls, batches: Iterable["PlannedBatch"]) -> "PlannedBatch":
        """Returns the samples of at least one batch as one batch."""
        batches = list(batches)
        return cls(*(np.concatenate([getattr(batch, name) for batch in batches]) for name in _FIELDS))

    def __len__(self) -> int:
        """Returns the number of samples B."""
        return len(self.indices)

    def __getitem__(self, row: int) -> PlannedSample:
        """Returns one sample. Its arrays are views."""
        return PlannedSample(
            index=int(self.indices[row]),
            is_padding=bool(self.is_padding[row]),
            region_xyxy=self.regions_xyxy[row],
            resized_size=(int(self.resized_sizes[row, 0]), int(self.resized_sizes[row, 1])),
            input_from_resized=self.input_from_resized[row],
            input_from_original=self.input_from_original[row],
            colour_matrix=self.colour_matrices[row],
            has_failed=bool(self.has_failed[row]),
        )

    def __iter__(self) -> Iterator[PlannedSample]:
        """Yields the samples one by one. Code that runs once a batch reads the arrays instead."""
        return (self[row] for row in range(len(self)))

    @property
    def num_real(self) -> int:
        """Number of samples that are no padding."""
        # Not `any`, which takes NumPy twice as long.
        return len(self) - int(np.count_nonzero(self.is_padding))

    def select(self, rows: npt.ArrayLike | slice) -> "PlannedBatch":
        """Returns the batch of these rows, in this order."""
        chosen = rows if isinstance(rows, slice) else np.asarray(rows, np.int64)
        return PlannedBatch(*(getattr(self, name)[chosen] for name in _FIELDS))

    def with_failed(self, rows: Sequence[int]) -> "PlannedBatch":
        """Returns the batch with these rows marked as failed, so that loss and metrics leave them out."""
        if not len(rows):
            return self
        has_failed, is_padding = self.has_failed.copy(), self.is_padding.copy()
        has_failed[list(rows)] = is_padding[list(rows)] = True
        return replace(self, has_failed=has_failed, is_padding=is_padding)


_FIELDS = tuple(field.name for field in fields(PlannedBatch))


class PlannedBatches(Protocol):
    """The batches of one epoch on one rank. Plans that compare equal have the same batches."""

    epoch: int

    @property
    def following(self) -> "PlannedBatches | None":
        """The plan that is expected after this one; a loader may prepare its first batches early. None: not known."""

    def __len__(self) -> int:
        """Returns the number of batches."""

    def batch(self, step: int) -> PlannedBatch:
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

    def wants_any(self) -> bool:
        """Returns whether `wants` is true for any image."""

    def keep(self, index: int, image: torch.Tensor) -> None:
        """Keeps a copy of a wanted decoded image, (H, W, 3) uint8 on any device."""


class StoredImage(NamedTuple):
    """Size and orientation of an image in its file."""

    size: tuple[int, int]
    """(H, W) before EXIF is applied."""
    orientation: int
    """EXIF orientation, 1 to 8."""

    @property
    def upright_size(self) -> tuple[int, int]:
        """(H, W) after EXIF is applied."""
        height, width = self.size
        return (width, height) if self.orientation >= 5 else (height, width)


@dataclass(frozen=True)
class SourceImages:
    """The stored images of a split: files, and images in memory."""

    paths: Sequence[str]
    """File of each sample index."""
    kept: KeptImages | None = None
    """Images in memory, used in place of the files. A loader hands it each decoded image that it wants."""
    largest_stored: tuple[int, int] | None = None
    """(H, W) that no file exceeds as it is stored; used by `preallocate_decoder`."""
    stored_sizes: npt.NDArray[np.integer] | None = None
    """(N, 2) (H, W) of each file as it is stored; needed with `scaled_decode`. They bound what a batch decodes at once, and files
    of another size are refused; None: no bound, and any size."""
    orientations: npt.NDArray[np.integer] | None = None
    """(N,) EXIF orientation of each file, 1 to 8; needed with `scaled_decode`, and on a CPU to refuse files of another size."""

    def upright_size(self, index: int) -> tuple[int, int] | None:
        """Returns the (H, W) of one image after EXIF is applied; None: sizes and orientations are not known."""
        if self.stored_sizes is None or self.orientations is None:
            return None
        return self.stored_image(index).upright_size

    def stored_image(self, index: int) -> StoredImage:
        """Returns how one image is stored.

        Raises:
            ValueError: sizes and orientations are not known.
        """
        if self.stored_sizes is None or self.orientations is None:
            raise ValueError("scaled_decode needs the sizes and orientations of the files: set both in SourceImages")
        height, width = self.stored_sizes[index]
        return StoredImage((int(height), int(width)), int(self.orientations[index]))


@dataclass(frozen=True)
class ImageBatch:
    """Finished images and the samples they were made from."""

    images: torch.Tensor
    """(B, 3, H, W) float16 or float32, normalised, on the loader's device; uint8 RGB levels from a loader with levels=True. In
    channels_last memory format with output_layout=HWC."""
    samples: PlannedBatch
    """One per image. A sample that failed keeps its slot; its image is black and it is marked as padding."""


class SampleError(RuntimeError):
    """A file could not be read, decoded or processed; the message names it."""
