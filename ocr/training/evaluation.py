"""Post-processing and metrics in worker threads, beside the forward pass. Only the step from maps to levels runs on the device.

main thread   forward | levels, copy to the host | forward | ...      waits only while the queue is full
workers                             polygons, matches | polygons, matches | ...
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from dali_pipelines.source import PlannedBatch, PlannedSample
from ocr.datasets.base import ValidatedOCRDataset
from ocr.datasets.manifest import Manifest
from ocr.errors import InputError, StorageError
from ocr.metrics.cleval import CharacterTargets, CLEvalCounts, count_characters
from ocr.metrics.icdar import MatchCounts, TargetRegions, match_image
from ocr.metrics.regions import FlatPolygons
from ocr.metrics.review import Review, review_image, sweep_thresholds
from ocr.pages.detector import PageDetector
from ocr.postprocess.boxes import Detections, detect_letterboxed
from ocr.postprocess.config import PostprocessConfig
from ocr.postprocess.levels import Levels
from ocr.postprocess.pool import OrderedPool
from ocr.targets.config import TargetConfig
from ocr.training.host_copy import HostCopy

IOU_THRESHOLDS = (0.5, 0.7)
"""IoU thresholds of hmean. The first one selects the best checkpoint; the second one shows how tightly the boxes fit."""


class ImageResult(NamedTuple):
    """Detections, matches and timing of one image."""

    sample_index: int
    """Position in the manifest."""
    detections_original: Detections
    """In pixels of the upright image."""
    matches: tuple[MatchCounts, ...]
    """One for each of `IOU_THRESHOLDS`; empty without annotations."""
    characters: CLEvalCounts | None
    """None without CLEval."""
    postprocess_seconds: float
    metric_seconds: float
    line: bytes | None = None
    """The image's line in predictions.jsonl; None: none is written."""
    review: Review | None = None
    """Outcomes of the texts and detections; None without reviews."""
    below_original: Detections | None = None
    """Detections below `box_thresh`, with a review only."""
    levels: Levels | None = None
    """(Hm, Wm) the map of the image without padding, with a review, until its line is written."""


@dataclass(frozen=True)
class Truth:
    """The annotations of one image, prepared for both metrics."""

    regions: TargetRegions
    characters: CharacterTargets | None


class OverlappedEvaluation:
    """Turns map levels on the device into results on the host, in the order of the images.

    Args:
        manifest: manifest of the evaluated split; its polygons are the ground truth.
        postprocess, targets: settings for turning maps into polygons.
        with_truth: compare the detections with the annotations.
        with_cleval: compare them by CLEval too, which takes longer than the IoU.
        with_review: review each image, and find the detections below `box_thresh` too.
        line_of: returns the `line` of a result, for a pass whose results are written as they come. Called by the workers. The
            prepared ground truth is then not kept for further passes. None: results have no line.
        pages: looks closer at large pages and at pages on their side, for `add_closer`.
    """

    def __init__(
        self,
        manifest: Manifest,
        postprocess: PostprocessConfig,
        targets: TargetConfig,
        *,
        with_truth: bool,
        with_cleval: bool,
        with_review: bool = False,
        line_of: Callable[[ImageResult], bytes] | None = None,
        pages: PageDetector | None = None,
    ) -> None:
        self.manifest = manifest
        self.pool: OrderedPool[ImageResult] = OrderedPool(postprocess.num_workers, postprocess.max_pending)
        self._postprocess, self._targets = postprocess, targets
        self._with_truth, self._with_cleval = with_truth, with_cleval
        self._thresholds = sweep_thresholds(postprocess.bin_thresh, postprocess.box_thresh) if with_review else None
        self._line_of, self._pages = line_of, pages
        self._truth: dict[int, Truth] = {}
        """Ground truth by image, computed on first use."""

    def add(self, levels_BHW: torch.Tensor, samples: PlannedBatch) -> None:
        """Queues the images of a batch, without its padding. Waits only while the queue is full.

        Args:
            levels_BHW: uint8, on the device: `to_levels` of the probabilities.
            samples: B planned samples.
        """
        levels = HostCopy(levels_BHW)
        for row in np.flatnonzero(~samples.is_padding).tolist():
            self.pool.submit(self._evaluate, levels, row, samples[row])

    def add_closer(self, levels_BHW: torch.Tensor, samples: PlannedBatch, dataset: ValidatedOCRDataset) -> None:
        """Queues the images of a batch as `add` does, after a closer look at those that need one.

        That look runs the network, so it happens in the calling thread, which waits for the device. It gives no detections below
        `box_thresh`, so a review has none of these images.
        """
        if self._pages is None:
            raise RuntimeError("add_closer() needs a PageDetector")
        levels = HostCopy(levels_BHW)
        for row in np.flatnonzero(~samples.is_padding).tolist():
            sample, closer = samples[row], None
            height, width = (int(side) for side in self.manifest.original_sizes[sample.index])
            if self._pages.looks_closer((height, width)):
                map_HW = levels.wait().numpy()[row]
                whole = detect_letterboxed(map_HW, sample, (height, width), self._postprocess, self._targets)
                closer = self._pages.detect(dataset.load_image(sample.index).image_array, whole).detections_original
            self.pool.submit(self._evaluate, levels, row, sample, closer)

    def close(self) -> None:
        """Ends the threads."""
        self.pool.close()

    def finish(self) -> list[ImageResult]:
        """Waits for the workers and returns the results since the last call, in the order of the images."""
        return self.pool.finish()

    def _evaluate(
        self, levels: HostCopy, row: int, sample: PlannedSample, closer: Detections | None = None
    ) -> ImageResult:
        levels_BHW = levels.wait().numpy()  # waits for the copy, before any time is measured
        try:
            result = self._evaluate_image(levels_BHW[row], sample, closer)
            return result if self._line_of is None else result._replace(line=self._line_of(result), levels=None)
        except (InputError, StorageError):
            raise
        except Exception as error:
            filename = self.manifest.filenames[sample.index]
            raise RuntimeError(f"{filename}: post-processing or metric failed: {error!r}") from error

    def _evaluate_image(self, levels_HW: Levels, sample: PlannedSample, closer: Detections | None) -> ImageResult:
        started = time.perf_counter()
        with_review = self._thresholds is not None
        height, width = (int(side) for side in self.manifest.original_sizes[sample.index])
        detections = closer
        if detections is None:
            detections = detect_letterboxed(
                levels_HW, sample, (height, width), self._postprocess, self._targets, with_below=with_review
            )
        kept, below = detections.parted() if with_review else (detections, None)
        finished = time.perf_counter()
        result = ImageResult(sample.index, kept, (), None, finished - started, 0.0, below_original=below)
        if self._with_truth:
            result = self._compared(result, detections)
        if with_review:
            rows, columns = (-(-side // self._targets.map_stride) for side in sample.resized_size)
            result = result._replace(levels=levels_HW[:rows, :columns])
        return result._replace(metric_seconds=time.perf_counter() - finished)

    def _compared(self, result: ImageResult, detections: Detections) -> ImageResult:
        """Returns the result with its counts.

        Args:
            detections: those of the result, and with a review those below `box_thresh` after them.
        """
        truth = self._truth_of(result.sample_index)
        polygons, review = _flat(detections), None
        if self._thresholds is None:
            matches = match_image(polygons, truth.regions, IOU_THRESHOLDS)
        else:
            matches, review = review_image(
                polygons,
                detections.scores,
                detections.num_below,
                truth.regions,
                IOU_THRESHOLDS,
                self._thresholds,
                self._postprocess.box_thresh,
            )
        characters = None
        if truth.characters is not None:
            characters = count_characters(_flat(result.detections_original), truth.characters)
        return result._replace(matches=matches, characters=characters, review=review)

    def _truth_of(self, index: int) -> Truth:
        truth = self._truth.get(index)
        if truth is None:
            polygons, ignore = self.manifest.polygons.polygons_of(index), self.manifest.polygons.ignore_of(index)
            characters = CharacterTargets.from_polygons(polygons, ignore) if self._with_cleval else None
            truth = Truth(TargetRegions.from_polygons(polygons, ignore), characters)
            if self._line_of is None:
                self._truth[index] = truth
        return truth


def _flat(detections: Detections) -> FlatPolygons:
    return FlatPolygons(detections.vertices.astype(np.float64), np.diff(detections.vertex_starts))
