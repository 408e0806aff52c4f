"""One pass of the network over a split: forward on the device, post-processing beside it, and the time of each stage."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ocr.config import TrainConfig
from ocr.datasets.manifest import Manifest
from ocr.device_stages import DeviceStages
from ocr.loaders.batch import Batch
from ocr.metrics.icdar import MatchCounts
from ocr.models.db_head import DBMaps
from ocr.pages.detector import PageDetector
from ocr.postprocess.boxes import Detections, warn_of_cut_regions
from ocr.postprocess.levels import to_levels
from ocr.training.evaluation import ImageResult, OverlappedEvaluation
from ocr.training.network import EvaluationForward
from ocr.training.result_lines import ResultLines


@dataclass
class EvaluationSeconds:
    """Seconds of a pass by stage. The host works beside the device, so their sum may exceed the duration of the pass."""

    forward: float = 0.0
    device_postprocess: float = 0.0
    postprocess: float = 0.0
    """On the host, summed over the worker threads; the same holds for `metric`."""
    metric: float = 0.0
    blocked: float = 0.0
    """Time in which the forward pass waited for the workers: for a place in the full queue, and for the last images."""


@dataclass
class EvaluationResult:
    """Detections and timing of a pass."""

    detections_original: dict[int, Detections] = field(default_factory=dict)
    """By position in the manifest, in pixels of the upright image."""
    counts: dict[int, MatchCounts] = field(default_factory=dict)
    """Counts at the first IoU threshold, by position in the manifest; empty without annotations."""
    seconds: EvaluationSeconds = field(default_factory=EvaluationSeconds)


class Evaluator:
    """Turns batches into maps and detections, pass after pass. Call `start`, then `evaluate` for each batch, then `finish`.

    Worker threads and CUDA graph are created in the first pass and kept until `close`.

    Args:
        model: the network, a DBNet, or a network for inference.
        config: configuration of the run.
        manifest: manifest of the evaluated split; its polygons are the ground truth.
        with_cleval: count characters for CLEval too.
        lines: receives the results as they come, so that none is kept; None: `finish` returns them.
        pages: looks closer at large pages and at pages on their side; None: all images are seen as a whole only.
    """

    def __init__(
        self,
        model: nn.Module,
        config: TrainConfig,
        manifest: Manifest,
        *,
        with_cleval: bool,
        lines: ResultLines | None = None,
        pages: PageDetector | None = None,
    ) -> None:
        self.result = EvaluationResult()
        self._model, self._config, self._manifest = model, config, manifest
        self._with_cleval, self._lines, self._pages = with_cleval, lines, pages
        self._num_cut: dict[str, int] = {}
        """`Detections.num_cut` of each image of the pass with cut regions, by file name."""
        self._stages = DeviceStages()
        self._device = torch.device("cpu")
        self._workers: OverlappedEvaluation | None = None
        self._forward: EvaluationForward | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> "Evaluator":
        """Returns this evaluator: the average of the weights, a copy of the module, evaluates nothing, and manifests are large."""
        return self

    def start(self, device: torch.device, *, with_truth: bool) -> None:
        """Begins a pass.

        Args:
            with_truth: compare the detections with the annotations.
        """
        config = self._config
        if self._workers is None:
            self._workers = OverlappedEvaluation(
                self._manifest,
                config.postprocess,
                config.targets,
                with_truth=with_truth,
                with_cleval=self._with_cleval,
                with_review=self._lines is not None and self._lines.with_truth,
                line_of=None if self._lines is None else self._lines.line_of,
                pages=self._pages,
            )
        if self._forward is None:
            self._forward = EvaluationForward(self._model, config.trainer, device.type)
        self.result = EvaluationResult()
        self._num_cut = {}
        self._stages = DeviceStages()
        self._device = device

    def evaluate(self, batch: Batch) -> DBMaps:
        """Returns the maps of a batch, and hands them to the workers."""
        if self._workers is None or self._forward is None:
            raise RuntimeError("evaluate() was called before start()")
        with self._stages.stage("forward", self._device):
            maps = self._forward(batch.images, batch.samples.resized_sizes)
        with self._stages.stage("device_postprocess", self._device):
            levels = to_levels(maps.prob_map, self._config.postprocess.bin_thresh)
        if self._pages is None:
            self._workers.add(levels, batch.samples)
        else:
            self._workers.add_closer(levels, batch.samples, batch.dataset)
        if self._lines is not None:
            self._write(self._workers.pool.take(), self._lines)
        return maps

    def finish(self) -> list[ImageResult]:
        """Waits for the workers and fills `result`.

        Returns:
            this rank's results in the order of the images; none if they are written as they come.
        """
        if self._workers is None:
            raise RuntimeError("finish() was called before start()")
        pool, seconds = self._workers.pool, self.result.seconds
        results = self._workers.finish()
        if self._lines is not None:
            self._write(results, self._lines)
            results = []
        self._sum_up(results)
        self.result.detections_original = {result.sample_index: result.detections_original for result in results}
        self.result.counts = {result.sample_index: result.matches[0] for result in results if result.matches}
        warn_of_cut_regions(self._num_cut, self._config.postprocess.max_candidates)
        seconds.forward = self._stages.seconds("forward")
        seconds.device_postprocess = self._stages.seconds("device_postprocess")
        seconds.blocked = pool.blocked_seconds
        pool.reset_statistics()
        return results

    def _write(self, results: list[ImageResult], lines: ResultLines) -> None:
        for result in results:
            lines.write(result)
        self._sum_up(results)

    def _sum_up(self, results: list[ImageResult]) -> None:
        """Adds the images' seconds to those of the pass, and notes those with cut regions."""
        seconds = self.result.seconds
        for result in results:
            seconds.postprocess += result.postprocess_seconds
            seconds.metric += result.metric_seconds
            num_cut = result.detections_original.num_cut
            if num_cut:
                self._num_cut[self._manifest.filenames[result.sample_index]] = num_cut

    def gather_detections(self, num_ranks: int) -> None:
        """Gives each rank the detections and counts of all ranks, for predictions.json and the pictures."""
        if num_ranks == 1:
            return
        of_ranks: list[tuple[dict[int, Detections], dict[int, MatchCounts]]] = [({}, {}) for _ in range(num_ranks)]
        torch.distributed.all_gather_object(of_ranks, (self.result.detections_original, self.result.counts))
        for detections, counts in of_ranks:
            self.result.detections_original.update(detections)
            self.result.counts.update(counts)

    def close(self) -> None:
        """Ends the threads and frees the CUDA graph; `result` stays."""
        if self._workers is not None:
            self._workers.close()
            self._workers = None
        if self._forward is not None:
            self._forward.release()
            self._forward = None
