"""One row in a process of its own, which takes commands through a pipe and answers each.

    {"do": "open", "level": "input", "num_workers": 2}  -> {"first_batch_seconds": ..., "warm_up_seconds": ...}
    {"do": "measure", "seconds": 1.0, "cold": false}    -> {"images": ..., "seconds": ..., "cpu_seconds": ...}
    {"do": "parity"}                                    -> {"mean_levels": ..., ...}
    {"do": "close"}                                     -> {}

An answer with "cannot_run" or "failed" says why there is no other. The process ends when nobody holds the other end.
"""

import gc
import os
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import islice, pairwise
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from nvidia.dali import backend as dali_backend

from benchmarks.loaders.config import WITH_NETWORK
from benchmarks.loaders.own_loaders import OwnLoader, Replay
from benchmarks.loaders.parity import compare
from benchmarks.loaders.passes import Pass, pass_of
from benchmarks.loaders.processes import drop_from_page_cache, forget_peak_memory, peak_memory, usage
from benchmarks.loaders.rows import ROWS, Row
from benchmarks.loaders.setting import Setting
from benchmarks.loaders.source import CannotRun, Source
from ocr.datasets.plan import EpochPlan

Answer = dict[str, Any]
MOST_TIME = 4
"""Times the seconds of a measurement that dropping files before each epoch may take."""


def serve(commands: Connection, row: str, setting: Setting, log_path: Path) -> None:
    """Answers until the other end is gone. Everything printed here goes to the log."""
    os.setsid()  # Ctrl-C is for the one who asked, and this process and its workers can be ended together
    with log_path.open("a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    # Code that torch.compile has kept from earlier runs would hide what compiling takes.
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(setting.scratch.resolve() / "compiled")
    bench = RowBench(next(each for each in ROWS if each.name == row), setting)
    with suppress(EOFError, OSError):
        while True:
            commands.send(answer(bench, commands.recv()))
    bench.close()


def answer(bench: "RowBench", command: dict[str, Any]) -> Answer:
    """What a command gives, or why it gives nothing."""
    action: Callable[..., Answer] = getattr(bench, command.pop("do"))
    try:
        return action(**command)
    except CannotRun as reason:
        return {"cannot_run": str(reason)}
    except Exception as error:
        traceback.print_exc()
        return {"failed": " ".join(f"{type(error).__name__}: {error}".split())}


@dataclass(frozen=True)
class _Timed:
    images: int = 0
    """In `seconds`."""
    all_images: int = 0
    """In the processor time."""
    seconds: float = 0.0
    stages: dict[str, float] = field(default_factory=dict)
    batch_seconds: tuple[float, ...] = ()
    """From one batch to the next within an epoch."""

    def __add__(self, other: "_Timed") -> "_Timed":
        stages = {name: self.stages.get(name, 0.0) + seconds for name, seconds in other.stages.items()}
        return _Timed(
            self.images + other.images,
            self.all_images + other.all_images,
            self.seconds + other.seconds,
            stages,
            self.batch_seconds + other.batch_seconds,
        )


class RowBench:
    """A row, open at one level at a time."""

    def __init__(self, row: Row, setting: Setting) -> None:
        self._row, self._setting = row, setting
        self._level: Any = None
        self._num_workers = 0
        self._source: Source | None = None
        self._pass: Pass | None = None
        self._gpu_bytes = 0

    def open(self, level: str, num_workers: int) -> Answer:
        """Makes the loader and runs an epoch, which fills caches, starts threads and warms up the network; how long that took."""
        self.close()
        forget_peak_memory()
        self._level, self._num_workers = level, num_workers
        free = self._free_gpu_bytes()
        started = time.perf_counter()
        self._source = source = self._row.open(self._setting, self._level, num_workers)
        batches: Iterator[Any] = source.decoded() if level == "decode" else source.epoch()
        next(batches)
        first_batch_seconds = time.perf_counter() - started
        if level not in WITH_NETWORK:
            for _ in batches:
                pass
            self._synchronize()
        first_epoch_seconds = time.perf_counter() - started
        del batches  # what else it has prepared is thrown away
        self._pass = pass_of(self._level, source, self._setting)
        warm_up_started = time.perf_counter()
        if level in WITH_NETWORK:
            self._timed_pass()
        warm_up_seconds = time.perf_counter() - warm_up_started
        self._gpu_bytes = free - self._free_gpu_bytes()
        return {
            "first_batch_seconds": first_batch_seconds,
            "first_epoch_seconds": None if level in WITH_NETWORK else first_epoch_seconds,
            "warm_up_seconds": warm_up_seconds if level in WITH_NETWORK else None,
            "reads_files": bool(source.files_read),
            "peak_memory": peak_memory(),
            "gpu_bytes": self._gpu_bytes,
        }

    def measure(self, seconds: float, cold: bool, each_batch: bool = False) -> Answer:
        """Whole epochs until `seconds` have passed; with `each_batch` the time of each batch too, which is waited for then."""
        total = _Timed()
        cpu_seconds, wall_seconds, read_bytes = 0.0, 0.0, 0
        free = self._free_gpu_bytes()
        began = time.perf_counter()
        while total.seconds < seconds and (not total.images or time.perf_counter() - began < MOST_TIME * seconds):
            if cold:
                drop_from_page_cache([Path(path) for path in self._opened().files_read])
            before, started = usage(), time.perf_counter()
            total += self._timed_pass(each_batch)
            while not cold and total.seconds < seconds:
                total += self._timed_pass(each_batch)
            wall_seconds += time.perf_counter() - started
            used = usage().since(before)
            cpu_seconds += used.cpu_seconds
            read_bytes += used.read_bytes
        self._gpu_bytes += free - self._free_gpu_bytes()
        return asdict(total) | {
            "cpu_seconds": cpu_seconds,
            "wall_seconds": wall_seconds,
            "read_bytes": read_bytes,
            "peak_memory": peak_memory(),
            "gpu_bytes": self._gpu_bytes,
        }

    def _timed_pass(self, each_batch: bool = False) -> "_Timed":
        """Without a network the clock runs until the last batch is there; what a loader does to end comes after. In training it
        starts with the end of the first step: nothing is waited for then that a long epoch would not wait for too."""
        if self._pass is None:
            raise RuntimeError("open a level first")
        started, ends, counts = time.perf_counter(), [], []
        last = -(-self._setting.num_images(self._level, self._num_workers) // self._setting.batch_size(self._level)) - 1
        for place, count in enumerate(self._pass.batches()):
            if each_batch or place in (0, last):
                self._synchronize()
            counts.append(count)
            ends.append(time.perf_counter())
        stages = self._pass.finish()
        if self._level == "val-epoch":
            return _Timed(sum(counts), sum(counts), time.perf_counter() - started, stages)
        if self._level == "train-step" and len(counts) > 1:
            return _Timed(sum(counts[1:]), sum(counts), ends[-1] - ends[0], stages)
        between = tuple(later - earlier for earlier, later in pairwise(ends)) if each_batch else ()
        return _Timed(sum(counts), sum(counts), ends[-1] - started, stages, between)

    def parity(self) -> Answer:
        """One epoch of the level compared with the oracle."""
        source = self._opened()
        own = source if isinstance(source, OwnLoader) else None
        dataset = self._setting.dataset(self._level, self._num_workers)
        plan = (
            own.plan
            if own is not None
            else EpochPlan(dataset.manifest, dataset.planner, epoch=0, batch_size=self._setting.batch_size(self._level))
        )
        if own is not None:
            own.keeps_polygons = True
        # Of one that repeats its first batch only that one is compared.
        batches = list(islice(source.epoch(), 1 if isinstance(source, Replay) else None))
        found = compare(batches, own.polygons_input if own is not None else None, plan, dataset)
        if own is not None:
            own.keeps_polygons = False
        return asdict(found) | {"resize_filter": source.resize_filter}

    def close(self) -> Answer:
        """Ends the loader; the process stays."""
        if self._pass is not None:
            self._pass.close()
        elif self._source is not None:
            self._source.close()
        self._source = self._pass = None
        if self._setting.device.type == "cuda":
            gc.collect()
            torch.cuda.empty_cache()
            dali_backend.ReleaseUnusedMemory()  # type: ignore[attr-defined]  # its stub leaves it out
        return {}

    def _opened(self) -> Source:
        if self._source is None:
            raise RuntimeError("open a level first")
        return self._source

    def _synchronize(self) -> None:
        if self._setting.device.type == "cuda":
            torch.cuda.synchronize(self._setting.device)

    def _free_gpu_bytes(self) -> int:
        on_gpu = self._setting.device.type == "cuda"
        return torch.cuda.mem_get_info(self._setting.device)[0] if on_gpu else 0
