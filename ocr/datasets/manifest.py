"""The checked annotations of one split, as flat arrays that the plan, the pipeline and the metric index."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dali_pipelines.source import StoredImage
from ocr.datasets.image_source import ImageFiles, ImageSource
from ocr.datasets.names import Names
from ocr.polygons import PolygonBatch

COLUMNS = {
    "filename_bytes": ((-1,), np.uint8),
    "filename_starts": ((-1,), np.int64),
    "path_bytes": ((-1,), np.uint8),
    "path_starts": ((-1,), np.int64),
    "sample_ids": ((-1,), np.int64),
    "stored_sizes": ((-1, 2), np.int32),
    "orientations": ((-1,), np.uint8),
    "is_converted": ((-1,), np.bool_),
    "vertices": ((-1, 2), np.float32),
    "vertex_starts": ((-1,), np.int64),
    "polygon_starts": ((-1,), np.int64),
    "ignore": ((-1,), np.bool_),
}
"""Shape and type of the arrays that make up a manifest of loose files. -1 is any length."""

SET_SHIFT = 32
"""Bit of a sample id from which on the id holds the number of the image's data set."""


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

    image_paths: Sequence[str]
    """Absolute paths; for images in shards the name in messages, `train-000000.tar: a.jpg`."""
    filenames: Sequence[str]
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
    reopen: Callable[[], Callable[[], "Manifest"] | None] | None = field(
        default=None, init=False, repr=False, compare=False
    )
    """Returns a function that maps the same manifest from its file in another process, or None if that file is no longer there."""

    @classmethod
    def from_columns(cls, columns: Mapping[str, npt.NDArray[Any]], folder: Path, num_listed: int) -> "Manifest":
        """Returns the manifest of the arrays `COLUMNS`, of images in a folder."""
        names = Names(columns["filename_bytes"], columns["filename_starts"])
        on_disk = Names(columns["path_bytes"], columns["path_starts"])
        return cls(
            image_paths=on_disk.with_prefix(f"{str(folder).rstrip('/')}/"),
            filenames=names,
            sample_ids=columns["sample_ids"],
            stored_sizes=columns["stored_sizes"],
            orientations=columns["orientations"],
            polygons=PolygonBatch(
                columns["vertices"], columns["vertex_starts"], columns["polygon_starts"], columns["ignore"]
            ),
            num_listed=num_listed,
            is_converted=columns["is_converted"],
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles a manifest from a file as the file's path: a worker process maps the same pages."""
        mapped = self.reopen() if self.reopen is not None else None
        if mapped is not None:
            return mapped, ()
        fields = (getattr(self, name) for name in self.__match_args__)
        return type(self), tuple(fields)

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
    def set_sizes(self) -> dict[str, int]:
        """Number of images of each of several data sets, by its name; empty with one set."""
        return {part.name: part.num_images for part in self.sets}

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
