"""The checked annotations of one split, as flat arrays that the plan, the pipeline and the metric index."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from dali_pipelines.source import StoredImage
from ocr.datasets.image_source import ImageFiles, ImageSource
from ocr.polygons import PolygonBatch

SET_SHIFT = 32
"""Lowest bit of the number of an image's data set in its sample id."""


@dataclass(frozen=True)
class ManifestSet:
    """One of several data sets in a manifest: the images that follow those of the set before."""

    name: str
    num_images: int
    """Number of usable images."""
    num_listed: int
    """Number of images before any was skipped."""
    prefix: str = ""
    """Beginning of this set's names in `Manifest.filenames` that the annotations do not have."""
    weight: float | None = None
    """Share of an epoch's training samples, relative to the other sets; None: every image once."""


@dataclass(frozen=True)
class Manifest:
    """Checked annotations of the N usable images of one split, in the order of the annotation file."""

    image_paths: tuple[str, ...]
    """Absolute paths; for images in shards the name in messages, `train-000000.tar: a.jpg`."""
    filenames: tuple[str, ...]
    """Names as in the annotations, or relative to the image folder: the keys of predictions.json."""
    sample_ids: npt.NDArray[np.int64]
    """(N,): position among all listed images. It keys the random numbers, so that a skipped image changes no other. In several data
    sets, `SET_SHIFT` bits hold the position in the image's own set, and the bits above the number of that set."""
    stored_sizes: npt.NDArray[np.int32]
    """(N, 2): (H, W) of the files as stored."""
    orientations: npt.NDArray[np.uint8]
    """(N,): EXIF orientations 1..8."""
    polygons: PolygonBatch
    """Polygons in the original (upright) frame."""
    num_listed: int
    """Number of images before any was skipped."""
    is_converted: npt.NDArray[np.bool_] | None = None
    """(N,): images that are read through a converted copy (`ocr.datasets.converted`); None: none is."""
    source: ImageSource | None = None
    """Source of the encoded images; None: the files at `image_paths`."""
    sets: tuple[ManifestSet, ...] = ()
    """The data sets that the images come from, in order; empty: one data set."""

    def __len__(self) -> int:
        """Returns the number of usable images."""
        return len(self.image_paths)

    @cached_property
    def images(self) -> ImageSource:
        """Encoded images by position."""
        return self.source or ImageFiles(self.image_paths)

    def stored_image(self, index: int) -> StoredImage:
        """Returns size and EXIF orientation of one file, as plain integers."""
        height, width = self.stored_sizes[index]
        return StoredImage((int(height), int(width)), int(self.orientations[index]))

    @property
    def largest_stored(self) -> tuple[int, int]:
        """Greatest height and greatest width (H, W) of the files as stored, perhaps from two different files."""
        height, width = self.stored_sizes.max(axis=0, initial=0)
        return int(height), int(width)

    @cached_property  # the plan reads it for each batch
    def original_sizes(self) -> npt.NDArray[np.int32]:
        """(N, 2): (H, W) of the upright images."""
        is_turned = self.orientations[:, None] >= 5
        return np.where(is_turned, self.stored_sizes[:, ::-1], self.stored_sizes)
