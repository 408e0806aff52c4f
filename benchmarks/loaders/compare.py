"""A comparison from its configuration to its files: rows in processes of their own, rounds in alternating order."""

import logging
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from rich.console import Console
from rich.progress import TaskID

from benchmarks.environment import environment, num_cores
from benchmarks.loaders.config import WITH_NETWORK, CompareConfig, Level
from benchmarks.loaders.doctor import SAME_SPEED, verdict
from benchmarks.loaders.gpu_monitor import GpuMonitor
from benchmarks.loaders.preparation import at_most, load_split, progress_bars, write_or_explain
from benchmarks.loaders.report import print_tables, write_json, write_report
from benchmarks.loaders.results import Measured, Results
from benchmarks.loaders.row_process import RowFailed, RowProcess
from benchmarks.loaders.rows import Row, chosen_rows
from benchmarks.loaders.setting import Setting
from benchmarks.loaders.source import CannotRun
from ocr.cache.budget import FreeMemory, decoded_bytes, file_bytes
from ocr.cache.entry import EntryLayout
from ocr.datasets.manifest import Manifest
from ocr.device import resolve_device, resolve_pipeline, resolve_precision
from ocr.splits import draw_if_synthetic

log = logging.getLogger(__name__)

PATIENCE = 300.0
"""Seconds after which a row that gives no answer is ended; for measurements ten times their length more."""
SHARE_OF_MEMORY = 0.6
"""Of what is free, that the networks of all rows may take at a time."""
WITH_PARITY: tuple[Level, ...] = ("input", "input+targets")


def compare_loaders(
    config: CompareConfig, run_dir: Path, after_level: Callable[[Results], None] = lambda _: None
) -> Results:
    """Measures all chosen rows at all levels; writes results.{json,md,png} below `run_dir` and prints the tables.

    What was measured is kept when Ctrl-C, or an error, ends it early. `after_level` gets the results so far.

    Raises:
        InputError: a row that is not there, a data set that cannot be used, a folder that cannot be written.
    """
    rows = chosen_rows(config.only)
    log.info("writing to %s", run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    draw_if_synthetic(config)
    device = resolve_device(config.device)
    pipeline = resolve_pipeline(config.pipeline, resolve_precision(config.trainer.precision, device))
    config = config.model_copy(update={"pipeline": pipeline})
    train, audit = load_split(config, "train", run_dir)
    val = load_split(config, "val", run_dir)[0] if "val-epoch" in config.levels else None
    results = Results(
        environment=environment(device, "scripts/compare_loaders.py"),
        settings=config.model_dump(mode="json"),
        image_statistics={"images": len(train), **audit.statistics},
        memory=_memory(config, train, val, device),
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with TemporaryDirectory(dir=run_dir, prefix="scratch_") as scratch:  # on the disk of the run, not in memory
            setting = Setting(config, at_most(train), train if val is None else at_most(val), Path(scratch))
            _Comparison(config, setting, rows, results, run_dir, after_level).run()
    except KeyboardInterrupt:
        results.is_interrupted = True
        log.warning("interrupted; what was measured so far follows")
    finally:
        results.verdict = verdict(results)
        print_tables(results, Console(width=min(Console().width, 120) if sys.stdout.isatty() else 120))
        write_or_explain(write_report, results, run_dir)
    log.info("everything is in %s", run_dir)
    return results


def _memory(config: CompareConfig, train: Manifest, val: Manifest | None, device: torch.device) -> dict[str, int]:
    """What keeping the whole data set would take, and what is free: bytes."""
    map_size = config.pipeline.image_size // config.targets.map_stride if config.trainer.val_loss else None
    entry = EntryLayout(config.pipeline.image_size, map_size, "float16").num_bytes
    everything = range(len(train))
    free = FreeMemory.measured(device)
    return {
        "train_file_bytes": file_bytes(train, everything),
        "train_decoded_bytes": decoded_bytes(train, everything),
        "val_tensor_bytes": entry * len(val) if val is not None else 0,
        "free_gpu_bytes": free.gpu,
        "free_ram_bytes": free.ram,
    }


class _Comparison:
    """The rows while they run."""

    def __init__(
        self,
        config: CompareConfig,
        setting: Setting,
        rows: Sequence[Row],
        results: Results,
        run_dir: Path,
        after_level: Callable[[Results], None],
    ) -> None:
        self._setting, self._config = setting, config
        self._rows = list(rows)
        self._results = results
        self._run_dir = run_dir
        self._after_level = after_level
        self._processes: dict[str, RowProcess] = {}
        self._num_workers = {row.name: self._default_workers(row) for row in rows}
        self._progress = progress_bars()
        self._monitor = GpuMonitor()

    def run(self) -> None:
        log.info("starting %d rows", len(self._rows))
        try:
            with self._progress:
                if self._config.sweep:
                    self._sweep()
                for level in self._config.levels:
                    self._run_level(level)
                    write_or_explain(write_json, self._results, self._run_dir)
                    self._after_level(self._results)
        finally:
            for process in self._processes.values():
                process.end()
            self._monitor.close()

    def _default_workers(self, row: Row) -> int:
        if row.workers_are == "processes":
            return max(self._config.dataloader.num_workers, 1)
        return (self._config.pipeline.num_threads or num_cores()) if row.workers_are == "threads" else 0

    def _process(self, row: Row) -> RowProcess:
        """The row's own, which is started if it is not running."""
        if row.name not in self._processes or self._processes[row.name].has_ended:
            logs = self._run_dir / "rows"
            logs.mkdir(exist_ok=True)
            self._processes[row.name] = RowProcess(row.name, self._setting, logs / f"{row.name}.log")
        return self._processes[row.name]

    def _sweep(self) -> None:
        """Finds the number of workers with which each row is fastest at the level `input`."""
        rows = [row for row in self._rows if row.workers_are != "none"]
        candidates = _candidates(num_cores())
        log.info("finding the number of workers of %d rows among %s", len(rows), candidates)
        task = self._progress.add_task("workers", total=len(rows))
        for row in rows:
            found: dict[int, Measured] = {}
            for number in candidates:
                measured = found.setdefault(number, Measured())
                if not self._open(row, "input", number, measured):
                    break
                self._measure(row, measured)
            self._close(row)
            if all(measured.rounds for measured in found.values()):
                self._results.sweeps[row.name] = found
                self._num_workers[row.name] = fastest(found)
            self._progress.advance(task)

    def _run_level(self, level: Level) -> None:
        """Rounds in alternating order. Networks of all rows at a time may not fit into memory: then groups of rows take turns,
        and the replayed batch is measured with each."""
        first, *others = self._rows
        opened = [first] if self._open_at(level, first) else []
        size = len(others)
        if level in WITH_NETWORK and opened:
            size = min(size, max(1, self._num_fitting(self._results.measured(level, first.name)) - 1))
        log.info("%s: measuring %d rows, %d rounds", level, len(self._rows), self._config.rounds)
        task = self._progress.add_task(level, total=len(self._rows) * self._config.rounds)
        for start in range(0, max(len(others), 1), max(size, 1)):
            group = [row for row in others[start : start + size] if self._open_at(level, row)]
            self._run_rounds(level, [*opened, *group], task)
            for row in group:
                self._close(row)
                if level in WITH_NETWORK:  # only its end surely gives the memory back
                    self._processes[row.name].end()
        for row in opened:
            self._close(row)
        self._progress.update(task, completed=len(self._rows) * self._config.rounds)

    def _num_fitting(self, measured: Measured) -> int:
        """Processes like this one that fit into most of the free memory."""
        device = self._setting.device
        free = FreeMemory.measured(device)
        fitting = SHARE_OF_MEMORY * (free.ram + measured.opened_bytes) / max(measured.opened_bytes, 1)
        if device.type == "cuda":
            on_gpu = max(measured.opened_gpu_bytes, 1)
            fitting = min(fitting, SHARE_OF_MEMORY * (free.gpu + on_gpu) / on_gpu)
        return int(fitting)

    def _run_rounds(self, level: Level, rows: Sequence[Row], task: TaskID) -> None:
        passes = [False, True] if level == "input" and self._config.cold else [False]
        for round_ in range(self._config.rounds):
            for row in rows if round_ % 2 == 0 else rows[::-1]:
                measured = self._results.measured(level, row.name)
                for cold in passes:
                    if not cold or measured.reads_files:
                        self._measure(row, measured, cold)
                self._progress.advance(task)

    def _open_at(self, level: Level, row: Row) -> bool:
        measured = self._results.measured(level, row.name)
        if self._open(row, level, self._num_workers[row.name], measured) and level in WITH_PARITY:
            measured.parity = self._ask(row, measured, "parity", PATIENCE)
        if measured.reason is not None:
            self._close(row)
        return measured.reason is None

    def _close(self, row: Row) -> None:
        self._ask(row, Measured(), "close", PATIENCE)

    def _open(self, row: Row, level: Level, num_workers: int, measured: Measured) -> bool:
        measured.num_workers = num_workers
        answer = self._ask(row, measured, "open", PATIENCE, level=level, num_workers=num_workers)
        if answer is None:
            return False
        measured.first_batch_seconds, measured.reads_files = answer["first_batch_seconds"], answer["reads_files"]
        measured.opened_bytes, measured.opened_gpu_bytes = answer["peak_memory"], answer["gpu_bytes"]
        return True

    def _measure(self, row: Row, measured: Measured, cold: bool = False) -> None:
        started = time.perf_counter()
        seconds = self._config.seconds
        answer = self._ask(row, measured, "measure", PATIENCE + 10 * seconds, seconds=seconds, cold=cold)
        if answer is not None:
            answer["gpu_percent"] = self._monitor.percent_since(started)
            (measured.cold_rounds if cold else measured.rounds).append(answer)

    def _ask(self, row: Row, measured: Measured, do: str, timeout: float, **arguments: Any) -> dict[str, Any] | None:
        """The row's answer; None, and the reason noted, where it gives none."""
        if measured.reason is not None:
            return None
        try:
            return self._process(row).ask(do, timeout, **arguments)
        except CannotRun as reason:
            measured.reason = str(reason)
        except RowFailed as failure:
            measured.reason = f"failed: {failure}"
            log.warning("%s failed: %s", row.name, failure)
        return None


def _candidates(num_cores: int) -> list[int]:
    """1, 2, 4 and so on, up to the number of cores."""
    powers = [1 << exponent for exponent in range(num_cores.bit_length())]
    return sorted({number for number in powers if number <= num_cores} | {num_cores})


def fastest(found: Mapping[int, Measured]) -> int:
    """The fewest workers that are as fast as the fastest."""
    rates = {number: rate.median for number, measured in found.items() if (rate := measured.images_per_second)}
    return min(number for number, rate in rates.items() if rate >= (1 - SAME_SPEED) * max(rates.values()))
