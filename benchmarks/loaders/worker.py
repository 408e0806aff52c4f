"""One row in a process of its own: answers commands from a pipe until its other end is closed."""

import gc
import os
import time
import traceback
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import islice, pairwise
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from benchmarks.loaders.config import WITH_NETWORK, Level
from benchmarks.loaders.messages import (
    Close,
    Closed,
    Command,
    CompareWithOracle,
    Failed,
    MeasureRound,
    Open,
    Opened,
    Refused,
    Round,
)
from benchmarks.loaders.own_loaders import OwnLoader, Replay
from benchmarks.loaders.parity import Parity, compare
from benchmarks.loaders.passes import Pass, build_pass
from benchmarks.loaders.processes import drop_from_page_cache, peak_memory, reset_peak_memory, usage
from benchmarks.loaders.row_loader import CannotRun, RowLoader
from benchmarks.loaders.rows import ROWS, Row
from benchmarks.loaders.workload import Workload
from dali_pipelines.memory import release_unused
from ocr.datasets.plan import EpochPlan

MAX_OVERRUN = 4
"""A round that drops files before each epoch ends after this multiple of its seconds, dropping included."""


def serve(commands: Connection, row: str, workload: Workload, log_path: Path) -> None:
    """Answers commands until the other end is closed. Everything printed goes to the log."""
    os.setsid()  # Ctrl-C is for the comparing process, which ends this one
    with log_path.open("a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    # Code that torch.compile has cached in earlier runs would hide how long compiling takes.
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(workload.scratch.resolve() / "compiled")
    bench = RowBench(next(each for each in ROWS if each.name == row), workload)
    with suppress(EOFError, OSError):
        while True:
            commands.send(answer(bench, commands.recv()))
    bench.close()


def answer(bench: "RowBench", command: Command[Any]) -> Opened | Round | Parity | Closed | Refused | Failed:
    """Runs a command and returns its answer, or why there is none."""
    try:
        match command:
            case Open():
                return bench.open(command)
            case MeasureRound():
                return bench.measure(command)
            case CompareWithOracle():
                return bench.compare_with_oracle()
            case Close():
                bench.close()
                return Closed()
            case _:
                raise TypeError(f"{command!r} is no command")
    except CannotRun as reason:
        return Refused(str(reason))
    except Exception as error:
        traceback.print_exc()
        return Failed(" ".join(f"{type(error).__name__}: {error}".split()))


class RowBench:
    """A row, open at one level at a time."""

    def __init__(self, row: Row, workload: Workload) -> None:
        self._row, self._workload = row, workload
        self._level: Level = "input"
        self._num_workers = 0
        self._loader: RowLoader | None = None
        self._pass: Pass | None = None
        self._gpu_bytes = 0

    def open(self, command: Open) -> Opened:
        """Makes the loader and runs one epoch."""
        self.close()
        reset_peak_memory()
        self._level = level = command.level
        self._num_workers = command.num_workers
        with_network = level in WITH_NETWORK
        free, started = self._free_gpu_bytes(), time.perf_counter()
        self._loader = loader = self._row.open(self._workload, level, command.num_workers)
        batches: Iterator[Any] = loader.decoded() if level == "decode" else loader.epoch()
        next(batches)
        first_batch_seconds = time.perf_counter() - started
        if not with_network:
            for _ in batches:
                pass
            self._synchronize()
        first_epoch_seconds = time.perf_counter() - started
        del batches  # frees the batches that it has prepared
        self._pass = build_pass(level, loader, self._workload)
        warm_up_started = time.perf_counter()
        if with_network:
            self._timed_epoch(self._pass)
        warm_up_seconds = time.perf_counter() - warm_up_started
        self._gpu_bytes = free - self._free_gpu_bytes()
        return Opened(
            first_batch_seconds,
            first_epoch_seconds=None if with_network else first_epoch_seconds,
            warm_up_seconds=warm_up_seconds if with_network else None,
            reads_files=bool(loader.files_read),
            peak_memory=peak_memory(),
            gpu_bytes=self._gpu_bytes,
        )

    def measure(self, command: MeasureRound) -> Round:
        """Runs whole epochs until the seconds of the round have passed."""
        loader, pass_ = self._opened()
        total = Round()
        free = self._free_gpu_bytes()
        began = time.perf_counter()
        while total.seconds < command.seconds:
            if total.images and time.perf_counter() - began >= MAX_OVERRUN * command.seconds:
                break
            if command.cold:
                drop_from_page_cache(loader.files_read)
            before, started = usage(), time.perf_counter()
            total.add_epoch(self._timed_epoch(pass_, command.time_batches))
            while not command.cold and total.seconds < command.seconds:
                total.add_epoch(self._timed_epoch(pass_, command.time_batches))
            total.wall_seconds += time.perf_counter() - started
            used = usage().since(before)
            total.cpu_seconds += used.cpu_seconds
            total.read_bytes += used.read_bytes
        self._gpu_bytes += free - self._free_gpu_bytes()
        total.peak_memory, total.gpu_bytes = peak_memory(), self._gpu_bytes
        return total

    def _timed_epoch(self, pass_: Pass, time_batches: bool = False) -> Round:
        """Times one epoch.

        Without a network, the clock stops at the last batch, before the loader ends its epoch. In training, it starts after the
        first step, since the wait for the first batch hardly counts in a long epoch.
        """
        started, ends, counts = time.perf_counter(), [], []
        num_images = self._workload.num_images(self._level, self._num_workers)
        last = -(-num_images // self._workload.batch_size(self._level)) - 1
        for place, count in enumerate(pass_.batches()):
            if time_batches or place in (0, last):
                self._synchronize()
            counts.append(count)
            ends.append(time.perf_counter())
        stages = pass_.finish()
        if self._level == "val-epoch":
            return Round(sum(counts), sum(counts), time.perf_counter() - started, stages)
        if self._level == "train-step" and len(counts) > 1:
            return Round(sum(counts[1:]), sum(counts), ends[-1] - ends[0], stages)
        between = [later - earlier for earlier, later in pairwise(ends)] if time_batches else []
        return Round(sum(counts), sum(counts), ends[-1] - started, stages, between)

    def compare_with_oracle(self) -> Parity:
        """Compares one epoch with the oracle."""
        loader, _ = self._opened()
        dataset = self._workload.dataset(self._level, self._num_workers)
        if isinstance(loader, OwnLoader):
            plan = loader.plan
        else:
            batch_size = self._workload.batch_size(self._level)
            plan = EpochPlan(dataset.manifest, dataset.planner, epoch=0, batch_size=batch_size)
        num_batches = 1 if isinstance(loader, Replay) else None  # it repeats its first batch
        found = compare(list(islice(loader.epoch(), num_batches)), plan, dataset)
        return replace(found, resize_filter=loader.resize_filter)

    def close(self) -> None:
        """Ends the loader; the process stays."""
        if self._pass is not None:
            self._pass.close()
        elif self._loader is not None:
            self._loader.close()
        self._loader = self._pass = None
        if self._workload.device.type == "cuda":
            gc.collect()
            release_unused(self._workload.device)

    def _opened(self) -> tuple[RowLoader, Pass]:
        if self._loader is None or self._pass is None:
            raise RuntimeError("open a level first")
        return self._loader, self._pass

    def _synchronize(self) -> None:
        if self._workload.device.type == "cuda":
            torch.cuda.synchronize(self._workload.device)

    def _free_gpu_bytes(self) -> int:
        on_gpu = self._workload.device.type == "cuda"
        return torch.cuda.mem_get_info(self._workload.device)[0] if on_gpu else 0
