"""The CPU time that the training loader takes in the thread that launches kernels.

The real `BatchLoader` runs, with three things replaced so that it takes the way of a GPU and no more than the launching thread's
share of it:

- DALI's graph: its sources are the real ones, but it hands out what they feed, without reading or decoding a file;
- the target maps: made by the Triton path, on the CPU, up to the launch of the kernel. The planning thread packs the polygons, and
  this thread copies them to the buffer that a GPU would be sent;
- the CPU's rendering threads, whose work a GPU does in the graph: left out.

Not included, since they need a GPU: the launch itself, pinned memory, and the copy of a batch out of DALI.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any, TypeVar
from unittest import mock

import numpy as np
import torch
from nvidia.dali import fn, pipeline_def
from nvidia.dali.pipeline import Pipeline

from benchmarks.host.timing import Timing, sampled_gil, share_held, summed
from benchmarks.host.workloads import Workload, resized
from dali_pipelines import graphs, loader, outputs, steps
from dali_pipelines.config import PipelineConfig
from dali_pipelines.feed import SampleArrays
from dali_pipelines.threads import DecodedBatch
from ocr.datasets.base import ValidatedOCRDataset
from ocr.datasets.plan import SamplePlanner
from ocr.datasets.schemas import DatasetConfig
from ocr.loaders.engines import Engine
from ocr.loaders.loader import BatchLoader
from ocr.targets import maps, triton_maps
from ocr.targets.config import TargetConfig

LIMIT_US = 15.0
"""Largest CPU time in the launching thread, microseconds a sample, without DALI's own."""
FIRST_BATCH, LAST_BATCH = 2, 42
"""Batches of an epoch that are timed. DALI feeds several batches in its first run and none in its last ones."""
CLOCKED = ("run", "sources", "targets")
"""Calls that are timed."""
MIN_BATCHES = 40
"""Batches of a timed round; small sets take several epochs."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class LaunchingTimes:
    """The launching thread's parts for one workload and number of images."""

    workload: str
    images: int
    parts: dict[str, Timing]
    """sources: the callbacks that DALI calls, with the planning that is done in them. feeding: DALI's `run` without these callbacks
    and `dali`. targets: until the launch. loader: everything else."""
    gil_share: float
    """Share of this thread's time in which the GIL is held."""
    dali: Timing
    """`run` of a graph without these sources: DALI's own time."""
    epoch_start: Timing
    """From the beginning of an iteration to its first batch, in all threads; microseconds an epoch, not a sample."""

    @property
    def total(self) -> Timing:
        """The parts together, without DALI's own time."""
        return summed(self.parts.values())


def time_launching(workload: Workload, sizes: Sequence[int], batch_size: int, repeats: int) -> list[LaunchingTimes]:
    """Returns the CPU time of the launching thread, a training sample.

    Args:
        sizes: numbers of images; they take turns.
    """
    clock, bare_dali = _Clock(), _bare_dali(batch_size)
    with _launching_only(clock):
        loaders = {size: _loader(workload, size, batch_size) for size in sizes}
        for loader in loaders.values():
            _time_round(loader, clock)  # compiles, and fills caches
        rounds: dict[int, list[_Round]] = {size: [] for size in sizes}
        bare_seconds = []
        for _ in range(repeats):
            bare_seconds.append(bare_dali())
            for size, loader in loaders.items():
                rounds[size].append(_time_round(loader, clock))
        gil = {size: _time_round(loader, clock, sampled_gil).waits for size, loader in loaders.items()}
        for loader in loaders.values():
            loader.close()
    dali = Timing([1e6 * seconds / (MIN_BATCHES * batch_size) for seconds in bare_seconds])
    return [
        _times(workload.name, size, rounds[size], batch_size, dali, gil_share=share_held(gil[size])) for size in sizes
    ]


def _times(
    workload: str, size: int, rounds: Sequence["_Round"], batch_size: int, dali: Timing, *, gil_share: float
) -> LaunchingTimes:
    parts = {
        part: Timing([of_round.microseconds(part, batch_size) for of_round in rounds])
        for part in ("sources", "feeding", "targets", "loader")
    }
    feeding = zip(parts["feeding"].microseconds, dali.microseconds, strict=True)
    parts["feeding"] = Timing([max(0.0, whole - bare) for whole, bare in feeding])
    starts = Timing([1e6 * median(of_round.starts) for of_round in rounds])
    return LaunchingTimes(workload, size, parts, gil_share, dali, starts)


def _loader(workload: Workload, num_images: int, batch_size: int) -> BatchLoader:
    planner = SamplePlanner(PipelineConfig(), training=True, seed=0)
    manifest = resized(workload.manifest, num_images)
    dataset = ValidatedOCRDataset(DatasetConfig(image_path="unread"), planner, TargetConfig(), manifest)
    return BatchLoader(dataset, Engine("dali", torch.device("cpu")), batch_size)


class _Clock:
    """CPU time of the thread that made this object, by part, in seconds. Other threads plan ahead and are not counted."""

    def __init__(self) -> None:
        self._thread = threading.get_ident()
        self.seconds: dict[str, float] = {}

    def timed(self, part: str, function: Callable[..., Result]) -> Callable[..., Result]:
        """Returns the function with its time added to a part."""

        def call(*args: Any, **kwargs: Any) -> Result:
            if threading.get_ident() != self._thread:
                return function(*args, **kwargs)
            started = time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[part] = self.seconds.get(part, 0.0) + time.thread_time() - started

        return call


@dataclass
class _Round:
    """The figures of at least `MIN_BATCHES` batches."""

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys((*CLOCKED, "all"), 0.0))
    num_batches: int = 0
    starts: list[float] = field(default_factory=list)
    """Seconds from the start of each epoch to its first batch, in all threads."""
    waits: list[int] = field(default_factory=list)
    """Waits for the GIL, if they were sampled."""

    def microseconds(self, part: str, batch_size: int) -> float:
        """Returns the time of a part, a sample."""
        seconds = self.seconds
        of_rest = {
            "feeding": seconds["run"] - seconds["sources"],
            "loader": seconds["all"] - seconds["run"] - seconds["targets"],
        }
        return 1e6 * (seconds | of_rest)[part] / (self.num_batches * batch_size)


def _time_round(
    loader: BatchLoader,
    clock: _Clock,
    beside: Callable[[], AbstractContextManager[list[int]]] = lambda: nullcontext([]),
) -> _Round:
    """Times the middle of as many epochs as it takes.

    Args:
        beside: samples the GIL while batches are timed.
    """
    result = _Round()
    # A run hands out one batch and feeds a later one; the last runs of an epoch feed nothing.
    last = min(LAST_BATCH, len(loader) - loader.dataset.planner.config.prefetch_queue_depth - 1)
    while result.num_batches < MIN_BATCHES:
        loader.set_epoch(loader.epoch + 1)
        started = time.process_time()
        batches = iter(loader)
        next(batches)
        result.starts.append(time.process_time() - started)
        for _ in range(1, FIRST_BATCH):
            next(batches)
        with beside() as waits:
            clock.seconds = dict.fromkeys(CLOCKED, 0.0)
            started = time.thread_time()
            for _ in range(FIRST_BATCH, last):
                next(batches)
            clock.seconds["all"] = time.thread_time() - started
        result.waits += waits
        result.num_batches += last - FIRST_BATCH
        result.seconds = {part: taken + clock.seconds[part] for part, taken in result.seconds.items()}
    return result


@contextmanager
def _launching_only(clock: _Clock) -> Iterator[None]:
    replaced = (
        (graphs, "cpu_pipeline", lambda **settings: _FeedOnly(clock, **settings)),
        (loader, "SampleArrays", lambda *args, **settings: SampleArrays(*args, **(settings | {"inputs": "planned"}))),
        (outputs, "RenderingThreads", _NoRendering),
        (maps, "is_drawn_by_triton", lambda device: True),
        (triton_maps, "make_targets_triton", clock.timed("targets", triton_maps.make_targets_triton)),
        (triton_maps, "draw_tile", _NoKernel()),
    )
    with ExitStack() as stack:
        for owner, name, replacement in replaced:
            stack.enter_context(mock.patch.object(owner, name, replacement))
        yield


class _NoKernel:
    """Stands for the kernel; its launch does nothing."""

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return lambda *args, **kwargs: None


class _NoRendering:
    """Stands for the rendering threads, which a GPU does not need; all images are black."""

    def __init__(self, *args: Any) -> None:
        self._black = torch.zeros((1, 3, 8, 8))

    def next_batch(self, decode: Callable[[], DecodedBatch], num_left: int) -> tuple[torch.Tensor, DecodedBatch]:
        decoded = decode()
        return self._black.expand(len(decoded.samples), -1, -1, -1), decoded

    def forget(self) -> None:
        """Has nothing to forget."""

    def release(self) -> None:
        """Has no threads."""


class _FeedOnly:
    """A pipeline with the sources of the training graph, and nothing behind them. `run` returns a pixel for each image."""

    def __init__(self, clock: _Clock, *, feed: steps.Feed, batch_size: int, **settings: Any) -> None:
        next_batch = clock.timed("sources", feed.next_batch)
        timed_feed = replace(feed, next_batch=lambda: next_batch())  # DALI looks at the arguments
        settings = {name: value for name, value in settings.items() if name != "config"}
        self._pipeline: Pipeline = _sources_alone(feed=timed_feed, batch_size=batch_size, **settings)
        self._run = clock.timed("run", self._pipeline.run)
        self._pixel = np.zeros((1, 1, 3), np.uint8)

    def build(self) -> None:
        self._pipeline.build()

    def run(self, *args: Any) -> tuple[list[np.ndarray]]:
        outputs = self._run(*args)
        return ([self._pixel] * len(outputs[0]),)

    def reset(self) -> None:
        self._pipeline.reset()


@pipeline_def
def _sources_alone(feed: steps.Feed) -> Any:
    source, _ = steps.receive(feed, steps.TrainSource)
    return tuple(source)


@pipeline_def
def _no_sources() -> Any:
    return tuple(fn.random.uniform(shape=(2,)) for _ in steps.TrainSource._fields)


def _bare_dali(batch_size: int) -> Callable[[], float]:
    """Returns a function that gives the seconds of `MIN_BATCHES` runs with as many outputs, none of them fed from Python."""
    depth = PipelineConfig().prefetch_queue_depth
    pipeline = _no_sources(batch_size=batch_size, num_threads=1, device_id=None, prefetch_queue_depth=depth)
    pipeline.build()

    def run() -> float:
        started = time.thread_time()
        for _ in range(MIN_BATCHES):
            pipeline.run()
        return time.thread_time() - started

    return run
