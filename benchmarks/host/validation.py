"""The CPU time of a validated image on the host: polygons from the network's map, and their comparison with the truth.

The maps are the receipts' own shrink maps, blurred as a network blurs them: all their text is found.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import torch

from benchmarks.host.timing import Timing, time_in_turns
from benchmarks.host.workloads import Workload
from dali_pipelines.config import PipelineConfig
from dali_pipelines.source import PlannedBatch
from ocr.datasets.manifest import Manifest
from ocr.datasets.plan import EpochPlan, SamplePlanner
from ocr.postprocess.config import PostprocessConfig
from ocr.postprocess.levels import to_levels
from ocr.targets.config import TargetConfig
from ocr.targets.maps import make_targets
from ocr.training.evaluation import OverlappedEvaluation

SIZES = (640, 1600)
NUM_IMAGES = 16
BLUR_SIGMA = 0.6
"""Standard deviation of the blur in map pixels."""
WANTED_IMAGES_PER_SECOND = 2500
"""Images a second that `timing.NUM_CORES` cores are to reach at the first size."""


@dataclass(frozen=True)
class ValidationTimes:
    """The parts of a validated image for one workload and input size."""

    workload: str
    size: int
    images: int
    polygons_found: float
    """Mean number of an image."""
    parts: dict[str, Timing]
    """post-processing; with metric: post-processing and the ICDAR metric."""

    @property
    def images_per_second(self) -> float:
        """Most images a second, with the metric."""
        return self.parts["with metric"].most_per_second


def time_validation_host(workload: Workload, size: int, repeats: int) -> ValidationTimes:
    """Returns the CPU time of post-processing and metric, an image, in one thread."""
    manifest, targets = workload.manifest, TargetConfig()
    planner = SamplePlanner(PipelineConfig(image_size=size), training=False, seed=0)
    num_images = min(NUM_IMAGES, len(manifest))
    samples = EpochPlan(manifest, planner, epoch=0, batch_size=num_images).batch(0)
    levels = _levels(planner, manifest, samples, targets)
    alone, scored = (
        OverlappedEvaluation(
            manifest, PostprocessConfig(num_workers=0), targets, with_truth=with_truth, with_cleval=False
        )
        for with_truth in (False, True)
    )

    def evaluate(evaluation: OverlappedEvaluation) -> float:
        evaluation.add(levels, samples)
        results = evaluation.finish()
        return sum(len(result.detections_original.polygons) for result in results) / len(results)

    parts = time_in_turns(
        {"post-processing": lambda: evaluate(alone), "with metric": lambda: evaluate(scored)}, num_images, repeats
    )
    return ValidationTimes(workload.name, size, num_images, evaluate(alone), parts)


def _levels(planner: SamplePlanner, manifest: Manifest, samples: PlannedBatch, targets: TargetConfig) -> torch.Tensor:
    """Returns (B, S, S) uint8, the levels of blurred shrink maps."""
    size = (planner.input_size, planner.input_size)
    shrink_maps = make_targets(planner.input_polygons(manifest, samples), size, targets).shrink_map
    blurred = [cv2.GaussianBlur(shrink_map, (0, 0), BLUR_SIGMA) for shrink_map in shrink_maps.numpy()]
    return to_levels(torch.from_numpy(np.stack(blurred)), PostprocessConfig().bin_thresh)
