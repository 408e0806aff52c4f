"""The CPU time of planning a batch, by part."""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.host.timing import Timing, Work, summed, time_in_turns
from benchmarks.host.workloads import Workload, resized
from dali_pipelines.config import PipelineConfig
from ocr.datasets.plan import EpochPlan, SamplePlanner
from ocr.targets.config import TargetConfig
from ocr.targets.outline import measure_outlines
from ocr.targets.packing import pack_polygons

NUM_BATCHES = 10
"""Batches of a timed round."""


@dataclass(frozen=True)
class PlanningTimes:
    """The parts of planning for one workload and number of images."""

    workload: str
    images: int
    polygons_per_image: float
    parts: dict[str, Timing]

    @property
    def total(self) -> Timing:
        """The parts together."""
        return summed(self.parts.values())


def time_planning(workload: Workload, sizes: Sequence[int], batch_size: int, repeats: int) -> list[PlanningTimes]:
    """Returns the CPU time of plan, polygons in the input frame, their outlines and their packing, for training batches.

    Args:
        sizes: numbers of images; they take turns.
    """
    num_batches = min(NUM_BATCHES, min(sizes) // batch_size)
    works = {
        (size, part): work for size in sizes for part, work in _parts(workload, size, num_batches, batch_size).items()
    }
    timings = time_in_turns(works, num_batches * batch_size, repeats)
    return [
        PlanningTimes(
            workload.name,
            size,
            workload.polygons_per_image,
            {part: timing for (of_size, part), timing in timings.items() if of_size == size},
        )
        for size in sizes
    ]


def _parts(workload: Workload, num_images: int, num_batches: int, batch_size: int) -> dict[str, Work]:
    manifest = resized(workload.manifest, num_images)
    pipeline, targets = PipelineConfig(), TargetConfig()
    planner = SamplePlanner(pipeline, training=True, seed=0)
    plan = EpochPlan(manifest, planner, epoch=0, batch_size=batch_size)
    side = planner.input_size
    steps = range(num_batches)
    batches = [plan.batch(step) for step in steps]
    polygons_input = [planner.input_polygons(manifest, batch) for batch in batches]
    outlines = [measure_outlines(polygons, (side, side), targets) for polygons in polygons_input]
    return {
        "plan": lambda: [plan.batch(step) for step in steps],
        "polygons": lambda: [planner.input_polygons(manifest, batch) for batch in batches],
        "outlines": lambda: [measure_outlines(polygons, (side, side), targets) for polygons in polygons_input],
        "packing": lambda: [
            pack_polygons(*text, side // targets.map_stride) for text in zip(polygons_input, outlines, strict=True)
        ],
    }
