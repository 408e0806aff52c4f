"""Evaluation beside the forward pass: maps become levels on the device, all the rest happens in worker threads.

main thread   forward | levels, copy to the host | forward | ...      waits for nothing but a full queue
workers                             polygons, matches | polygons, matches | ...
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from dali_pipelines.source import PlannedSample
from ocr.datasets.manifest import Manifest
from ocr.metrics.cleval import CharacterTargets, CLEvalCounts, count_characters
from ocr.metrics.icdar import MatchCounts, TargetRegions, match_image
from ocr.postprocess import Detections, OrderedPool, PostprocessConfig, detect_levels, moved_detections
from ocr.postprocess.levels import Levels
from ocr.targets import TargetConfig

IOU_THRESHOLDS = (0.5, 0.7)
"""hmean is told at both. The best checkpoint is chosen at the first; the second shows how well boxes fit."""


class ImageResult(NamedTuple):
    """What became of one image."""

    sample_index: int
    """Position in the manifest."""
    detections_original: Detections
    """In pixels of the upright image."""
    matches: tuple[MatchCounts, ...]
    """One for each of `IOU_THRESHOLDS`; none where there is nothing to compare with."""
    characters: CLEvalCounts | None
    """None where CLEval was not asked for."""
    postprocess_seconds: float
    metric_seconds: float


@dataclass(frozen=True)
class Truth:
    """The annotations of one image, prepared for both metrics."""

    regions: TargetRegions
    characters: CharacterTargets | None


class OverlappedEvaluation:
    """From levels of the maps on the device to results on the host, in the order of the images, whatever the threads do.

    Args:
        manifest: of the evaluated split; its polygons are the truth.
        postprocess, targets: how maps become polygons.
        with_truth: compare with the annotations.
        with_cleval: by CLEval too, which costs more than the IoU.
    """

    def __init__(
        self,
        manifest: Manifest,
        postprocess: PostprocessConfig,
        targets: TargetConfig,
        *,
        with_truth: bool,
        with_cleval: bool,
    ) -> None:
        self.manifest = manifest
        self.pool: OrderedPool[ImageResult] = OrderedPool(postprocess.num_workers, postprocess.max_pending)
        self._postprocess, self._targets = postprocess, targets
        self._with_truth, self._with_cleval = with_truth, with_cleval
        self._truth: dict[int, Truth] = {}
        """Of the images seen so far: it is the same in each epoch."""

    def add(self, levels_BHW: torch.Tensor, samples: Sequence[PlannedSample]) -> None:
        """Hands over a batch; padding is left out. Waits only while the queue is full.

        Args:
            levels_BHW: uint8, on the device: `to_levels` of the probabilities.
            samples: B of them.
        """
        levels = to_host(levels_BHW)
        for row, sample in enumerate(samples):
            if not sample.is_padding:
                self.pool.submit(self._evaluate, levels, row, sample)

    def close(self) -> None:
        """Ends the threads."""
        self.pool.close()

    def finish(self) -> list[ImageResult]:
        """Waits for the workers; the results since the last call, in the order they were handed over."""
        return self.pool.finish()

    def _evaluate(self, levels: Callable[[], Levels], row: int, sample: PlannedSample) -> ImageResult:
        levels_BHW = levels()  # waits for the copy: not part of anyone's work
        try:
            return self._evaluate_image(levels_BHW[row], sample)
        except Exception as error:
            filename = self.manifest.filenames[sample.index]
            raise RuntimeError(f"{filename}: post-processing or metric failed: {error!r}") from error

    def _evaluate_image(self, levels_HW: Levels, sample: PlannedSample) -> ImageResult:
        started = time.perf_counter()
        height, width = (int(side) for side in self.manifest.original_sizes[sample.index])
        detections_input = detect_levels(
            _without_padding(levels_HW, sample.resized_size, self._targets.map_stride),
            map_stride=self._targets.map_stride,
            shrink_ratio=self._targets.shrink_ratio,
            config=self._postprocess,
        )
        found = moved_detections(detections_input, np.linalg.inv(sample.input_from_original), (height, width))
        finished = time.perf_counter()
        matches: tuple[MatchCounts, ...] = ()
        characters = None
        if self._with_truth:
            truth = self._truth_of(sample.index)
            matches = match_image(found.polygons, truth.regions, IOU_THRESHOLDS)
            if truth.characters is not None:
                characters = count_characters(found.polygons, truth.characters)
        return ImageResult(sample.index, found, matches, characters, finished - started, time.perf_counter() - finished)

    def _truth_of(self, index: int) -> Truth:
        if index not in self._truth:
            polygons, ignore = self.manifest.polygons.polygons_of(index), self.manifest.polygons.ignore_of(index)
            characters = CharacterTargets.from_polygons(polygons, ignore) if self._with_cleval else None
            self._truth[index] = Truth(TargetRegions.from_polygons(polygons, ignore), characters)
        return self._truth[index]


def to_host(levels: torch.Tensor) -> Callable[[], Levels]:
    """Begins to copy; the function it gives waits for the end of it, in whatever thread calls it."""
    if not levels.is_cuda:
        on_host = levels.numpy()
        return lambda: on_host
    pinned = torch.empty(levels.shape, dtype=levels.dtype, pin_memory=True)
    pinned.copy_(levels, non_blocking=True)
    copied = torch.cuda.Event(blocking=True)  # the waiting thread sleeps: the one that launches kernels needs the core
    copied.record()

    def arrived() -> Levels:
        copied.synchronize()
        return pinned.numpy()

    return arrived


def _without_padding(levels: Levels, image_size: tuple[int, int], map_stride: int) -> Levels:
    """The part of the map that shows the image, which lies top left."""
    height, width = image_size
    return levels[: -(-height // map_stride), : -(-width // map_stride)]
