"""The checked annotations of one split: flat arrays that the plan, the pipeline and the metric index."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from ocr.datasets.image_source import ImageFiles, ImageSource
from ocr.polygons import PolygonBatch


@dataclass(frozen=True)
class Manifest:
    """Checked annotations of the N usable images of one split, in the order of the annotation file."""

    image_paths: tuple[str, ...]
    """Absolute; of an image in a shard what messages call it, `train-000000.tar: a.jpg`."""
    filenames: tuple[str, ...]
    """As in the annotations, or relative to the image folder: the key in predictions.json."""
    sample_ids: npt.NDArray[np.int64]
    """(N,): place among all listed images. Random numbers are keyed by it, so that a skipped image changes no other."""
    stored_sizes: npt.NDArray[np.int32]
    """(N, 2): (H, W) of the file."""
    orientations: npt.NDArray[np.uint8]
    """(N,): EXIF orientation 1..8."""
    polygons: PolygonBatch
    """In the original (upright) frame."""
    num_listed: int
    """Images before any was skipped."""
    source: ImageSource | None = None
    """Where the images are read; None: files of `image_paths`."""

    def __len__(self) -> int:
        """Number of usable images."""
        return len(self.image_paths)

    @cached_property
    def images(self) -> ImageSource:
        """The content of the image files, wherever they are."""
        return self.source or ImageFiles(self.image_paths)

    @property
    def largest_stored(self) -> tuple[int, int]:
        """(H, W) that no file exceeds, before it is turned upright: the most rows and the most columns, if of two files."""
        height, width = self.stored_sizes.max(axis=0, initial=0)
        return int(height), int(width)

    @property
    def original_sizes(self) -> npt.NDArray[np.int32]:
        """(N, 2): (H, W) of the upright pictures."""
        is_turned = self.orientations[:, None] >= 5
        return np.where(is_turned, self.stored_sizes[:, ::-1], self.stored_sizes)
