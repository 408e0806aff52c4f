"""Another evaluation of the same images, counted against the same annotations as this one."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ocr.datasets.formats.annotated import AnnotatedWord
from ocr.datasets.formats.upstage import read_upstage
from ocr.datasets.manifest import Manifest
from ocr.datasets.orientation import original_from_stored
from ocr.errors import InputError
from ocr.file_names import shown
from ocr.given_files import compared_path
from ocr.metrics.icdar import MatchCounts, TargetRegions, match_image
from ocr.metrics.pooled_counts import PooledSplit
from ocr.polygons import FloatArray
from ocr.postprocess.boxes import Detections, moved_detections
from ocr.report.reviewed import Least, ReviewedImage, hmean_of


class Change(NamedTuple):
    """An image that the two runs see differently."""

    name: str
    here: MatchCounts
    """Counts of this run at the looser IoU threshold."""
    there: MatchCounts
    """Counts of the other run."""

    @property
    def gain(self) -> float:
        """hmean of this run minus that of the other."""
        return hmean_of(self.here) - hmean_of(self.there)


@dataclass(frozen=True)
class Comparison:
    """This run and another one, over the images that both have."""

    other: str
    """The other run, as the user named it."""
    pooled: PooledSplit
    """Counts of this run and the other one over the images that both have."""
    num_missing: int
    """Number of images of this run that the other does not have."""
    num_gains: int
    num_losses: int
    changes: tuple[Change, ...]
    """The largest differences of hmean, largest first."""
    pictured: tuple[ReviewedImage, ...]
    """The images of the first of them, as this run sees them."""

    @property
    def num_images(self) -> int:
        """Number of images that both have."""
        return self.pooled.whole[0].num_images


class OtherRun:
    """The predictions of another run, in pixels of the stored files. They are read one image after the other.

    Args:
        path: folder of an evaluation or a training run, or its predictions.json or metrics.json.

    Raises:
        InputError: there are no predictions.
    """

    def __init__(self, path: str) -> None:
        self.given, self._path = path, compared_path(path)
        self._counts: npt.NDArray[np.int32] = np.empty((0, 0, 3), np.int32)

    def count(self, manifest: Manifest, iou_thresholds: tuple[float, ...]) -> None:
        """Counts each image against the annotations, before the evaluation: no prediction may be refused after it.

        The counts take 24 bytes an image.

        Raises:
            InputError: they are damaged, a word is no polygon, or there is no image of the manifest among them.
        """
        counts = np.full((len(manifest), len(iou_thresholds), 3), -1, np.int32)
        for index, detections in self.detections(manifest):
            polygons, ignore = manifest.polygons.polygons_of(index), manifest.polygons.ignore_of(index)
            targets = TargetRegions.from_polygons(polygons, ignore)
            counts[index] = match_image(detections.polygons, targets, iou_thresholds)
        if (counts < 0).all():
            raise InputError(
                f"compare={self.given}: the two runs have no image in common; give a run on the same images, under the same names"
            )
        self._counts = counts

    def counts_of(self, index: int) -> tuple[MatchCounts, ...] | None:
        """Returns the counts of an image at each IoU threshold; None if the run does not have it. `count` has passed."""
        counts = self._counts[index]
        return None if counts[0, 0] < 0 else tuple(MatchCounts(*row) for row in counts.tolist())

    def detections(self, manifest: Manifest, wanted: Collection[int] | None = None) -> Iterator[tuple[int, Detections]]:
        """Yields position and detections, in pixels of the upright image, of each image of the manifest that the run has.

        Args:
            wanted: positions; None: all.

        Raises:
            InputError: a word is no polygon.
        """
        places = {name: index for index, name in enumerate(manifest.filenames) if wanted is None or index in wanted}
        for image in read_upstage(self._path):
            index = places.get(image.filename)
            if index is None:
                continue
            polygons = [self._polygon(image.filename, word) for word in image.words]
            stored = manifest.stored_image(index)
            height, width = manifest.original_sizes[index].tolist()
            yield (
                index,
                moved_detections(
                    Detections.from_polygons(polygons, np.zeros(len(polygons))),
                    original_from_stored(stored.orientation, stored.size),
                    (height, width),
                ),
            )

    def _polygon(self, filename: str, word: AnnotatedWord) -> FloatArray:
        if len(word.points) < 3 or not np.isfinite(word.points).all():
            raise InputError(
                f"{self._path} ({shown(filename)}, word {shown(word.key)}): found {word.points.tolist()}, expected at least 3 "
                "points of finite numbers; evaluate that run again"
            )
        return word.points.astype(np.float32)


class Comparing:
    """Compares the images of this run with those of another one, image by image.

    Args:
        other: its `count` has passed.
        num_thresholds: number of IoU thresholds.
        num_changes, num_pictured: largest numbers of `Comparison.changes` and `Comparison.pictured`.
    """

    def __init__(
        self, other: OtherRun, manifest: Manifest, num_thresholds: int, num_changes: int, num_pictured: int
    ) -> None:
        self._other = other
        self._pooled = PooledSplit(manifest.set_sizes, num_thresholds, num_runs=2)
        self._num_missing = self._num_gains = self._num_losses = 0
        self._changes: Least[Change] = Least(num_changes)
        self._pictured: Least[ReviewedImage] = Least(num_pictured)

    def add(self, image: ReviewedImage) -> None:
        """Compares an image of this run."""
        there = self._other.counts_of(image.index)
        if there is None:
            self._num_missing += 1
            return
        self._pooled.add(image.index, image.matches, there)
        change = Change(image.name, image.matches[0], there[0])
        self._num_gains += change.gain > 0
        self._num_losses += change.gain < 0
        if change.gain:
            key = (-abs(change.gain), image.index)
            self._changes.add(key, change)
            self._pictured.add(key, image)

    def comparison(self) -> Comparison:
        """Returns the comparison of the images so far."""
        return Comparison(
            other=self._other.given,
            pooled=self._pooled,
            num_missing=self._num_missing,
            num_gains=self._num_gains,
            num_losses=self._num_losses,
            changes=tuple(self._changes.kept),
            pictured=tuple(self._pictured.kept),
        )
