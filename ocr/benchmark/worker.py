"""One row in a process of its own, which takes commands through a pipe and answers each.

    {"do": "open", "level": "input", "num_workers": 2}  -> {"first_batch_seconds": ...}
    {"do": "measure", "seconds": 1.0, "cold": false}    -> {"images": ..., "seconds": ..., "cpu_seconds": ...}
    {"do": "parity"}                                    -> {"mean_levels": ..., ...}
    {"do": "close"}                                     -> {}

An answer with "cannot_run" or "failed" says why there is no other. The process ends when nobody holds the other end.
"""

import os
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from ocr.benchmark.own_loaders import OwnLoader, Replay
from ocr.benchmark.parity import compare
from ocr.benchmark.passes import Passed, pass_of
from ocr.benchmark.processes import drop_from_page_cache, peak_memory, usage
from ocr.benchmark.rows import ROWS, Row
from ocr.benchmark.setting import Setting
from ocr.benchmark.source import CannotRun, Source
from ocr.datasets.plan import EpochPlan

Answer = dict[str, Any]


def serve(commands: Connection, row: str, setting: Setting, log_path: Path) -> None:
    """Answers until the other end is gone. Everything printed here goes to the log."""
    os.setsid()  # Ctrl-C is for the one who asked, and this process and its workers can be ended together
    with log_path.open("a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    bench = RowBench(next(each for each in ROWS if each.name == row), setting)
    with suppress(EOFError):
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


class RowBench:
    """A row, open at one level at a time."""

    def __init__(self, row: Row, setting: Setting) -> None:
        self._row, self._setting = row, setting
        self._level: Any = None
        self._source: Source | None = None
        self._gpu_bytes = 0
        self._run: Callable[[], Passed] = lambda: Passed(0, {})
        self._end: Callable[[], None] = lambda: None

    def open(self, level: str, num_workers: int) -> Answer:
        """Makes the loader and runs one epoch, which fills caches and starts threads; how long its first batch took."""
        self.close()
        self._level = level
        free = self._free_gpu_bytes()
        started = time.perf_counter()
        self._source = self._row.open(self._setting, self._level, num_workers)
        if level == "decode":
            batches: Any = self._source.decoded()
        else:
            batches = self._source.epoch()
        next(batches)
        first_batch_seconds = time.perf_counter() - started
        for _ in batches:
            pass
        self._run, self._end = pass_of(self._level, self._source, self._setting)
        self._run()
        self._gpu_bytes = free - self._free_gpu_bytes()
        return {"first_batch_seconds": first_batch_seconds, "reads_files": bool(self._source.files_read)}

    def measure(self, seconds: float, cold: bool) -> Answer:
        """Whole epochs until `seconds` have passed."""
        num_images, read_bytes, timed, cpu_seconds = 0, 0, 0.0, 0.0
        stages: dict[str, float] = {}
        free = self._free_gpu_bytes()
        while timed < seconds:
            if cold:
                drop_from_page_cache([Path(path) for path in self._opened().files_read])
            before, started = usage(), time.perf_counter()
            for passed in self._passes(until=started if cold else started + seconds):
                num_images += passed.num_images
                for name, value in passed.stage_seconds.items():
                    stages[name] = stages.get(name, 0.0) + value
            timed += time.perf_counter() - started
            used = usage().since(before)
            cpu_seconds += used.cpu_seconds
            read_bytes += used.read_bytes
        self._gpu_bytes += free - self._free_gpu_bytes()
        return {
            "images": num_images,
            "seconds": timed,
            "cpu_seconds": cpu_seconds,
            "read_bytes": read_bytes,
            "peak_memory": peak_memory(),
            "gpu_bytes": self._gpu_bytes,
            "stages": stages,
        }

    def parity(self) -> Answer:
        """One epoch of the level compared with the oracle."""
        source = self._opened()
        own = source if isinstance(source, OwnLoader) else None
        dataset = self._setting.dataset(self._level)
        plan = (
            own.plan
            if own is not None
            else EpochPlan(
                dataset.manifest, dataset.transform, epoch=0, batch_size=self._setting.batch_size(self._level)
            )
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
        if self._source is not None:
            self._end()
            self._source = None
        return {}

    def _passes(self, until: float) -> Iterator[Passed]:
        """At least one."""
        yield self._run()
        while time.perf_counter() < until:
            yield self._run()

    def _opened(self) -> Source:
        if self._source is None:
            raise RuntimeError("open a level first")
        return self._source

    def _free_gpu_bytes(self) -> int:
        on_gpu = self._setting.device.type == "cuda"
        return torch.cuda.mem_get_info(self._setting.device)[0] if on_gpu else 0
