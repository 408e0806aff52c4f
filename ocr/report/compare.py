"""Another evaluation of the same images, counted against the same annotations as this one."""

from bisect import insort
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ocr.datasets.formats.annotated import AnnotatedWord
from ocr.datasets.formats.upstage import read_upstage
from ocr.datasets.manifest import Manifest
from ocr.datasets.orientation import original_from_stored
from ocr.errors import InputError
from ocr.file_names import shown
from ocr.metrics.icdar import MatchCounts, TargetRegions, match_image
from ocr.metrics.pooled_counts import PooledSplit
from ocr.polygons import FloatArray
from ocr.postprocess.boxes import Detections, moved_detections
from ocr.report.reviewed import hmean_of

_BESIDE = ("metrics.json", "predictions.jsonl")
"""Files of an evaluation that stand for the predictions.json in their folder."""


class Change(NamedTuple):
    """An image that the two runs see differently."""

    place: int
    """Position in the manifest."""
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
        given = Path(path)
        if given.is_dir():
            given /= "predictions.json"
        elif given.name in _BESIDE:
            given = given.with_name("predictions.json")
        if not given.is_file():
            raise InputError(
                f"compare={path}: there is no {given}; give the folder of a finished evaluation, or its predictions.json"
            )
        self.given, self._path = path, given

    def check(self, manifest: Manifest) -> None:
        """Reads the predictions once, before the evaluation: none may be refused after it.

        Raises:
            InputError: they are damaged, a word is no polygon, or there is no image of the manifest among them.
        """
        if not sum(1 for _ in self.detections(manifest)):
            raise InputError(
                f"compare={self.given}: the two runs have no image in common; give a run on the same images, under the same names"
            )

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


class CountsByImage:
    """The counts of all images of this run: 24 bytes an image.

    Args:
        num_images: of the manifest.
    """

    def __init__(self, num_images: int) -> None:
        self._counts: npt.NDArray[np.int32] = np.full((num_images, 2, 3), -1, np.int32)

    def add(self, index: int, matches: tuple[MatchCounts, ...]) -> None:
        """Notes the counts of an image at each IoU threshold."""
        self._counts[index] = matches

    def of(self, index: int) -> tuple[MatchCounts, ...] | None:
        """Returns the counts of an image; None if it has none."""
        counts = self._counts[index]
        return None if counts[0, 0] < 0 else tuple(MatchCounts(*row) for row in counts.tolist())

    @property
    def num_images(self) -> int:
        """Number of images with counts."""
        return int(np.count_nonzero(self._counts[:, 0, 0] >= 0))


def compared(
    other: OtherRun, own: CountsByImage, manifest: Manifest, iou_thresholds: tuple[float, ...], num_changes: int
) -> Comparison:
    """Returns the comparison with the `num_changes` largest differences. `OtherRun.check` has passed."""
    pooled = PooledSplit(manifest.set_sizes, len(iou_thresholds), num_runs=2)
    num_gains = num_losses = 0
    changes: list[tuple[tuple[float, int], Change]] = []
    for index, detections in other.detections(manifest):
        here = own.of(index)
        if here is None:
            continue
        polygons, ignore = manifest.polygons.polygons_of(index), manifest.polygons.ignore_of(index)
        there = match_image(detections.polygons, TargetRegions.from_polygons(polygons, ignore), iou_thresholds)
        pooled.add(index, here, there)
        change = Change(index, manifest.filenames[index], here[0], there[0])
        num_gains, num_losses = num_gains + (change.gain > 0), num_losses + (change.gain < 0)
        if change.gain:
            insort(changes, ((-abs(change.gain), index), change), key=lambda pair: pair[0])
            del changes[num_changes:]
    return Comparison(
        other=other.given,
        pooled=pooled,
        num_missing=own.num_images - pooled.whole[0].num_images,
        num_gains=num_gains,
        num_losses=num_losses,
        changes=tuple(change for _, change in changes),
    )
