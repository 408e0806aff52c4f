"""Runs a comparison: each row in a process of its own, rounds in alternating order."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from rich.progress import TaskID

from benchmarks.environment import environment
from benchmarks.loaders.config import WITH_NETWORK, CompareConfig, Level
from benchmarks.loaders.gpu_monitor import GpuMonitor
from benchmarks.loaders.messages import MeasureRound
from benchmarks.loaders.recommendation import SAME_SPEED
from benchmarks.loaders.report import comparison_report, write_json, write_report
from benchmarks.loaders.results import Measurement, Results
from benchmarks.loaders.row_process import RowProcess, RowSession
from benchmarks.loaders.rows import Row, chosen_rows
from benchmarks.loaders.splits import at_most, load_split
from benchmarks.loaders.verdict import verdict
from benchmarks.loaders.workload import Workload
from benchmarks.terminal import ended_by_ctrl_c, progress_bars
from dali_pipelines.config import num_cores
from ocr.cache.budget import FreeMemory, decoded_bytes, file_bytes
from ocr.cache.entry import EntryLayout
from ocr.datasets.manifest import Manifest
from ocr.device import resolve_device, resolve_loading, resolve_pipeline, resolve_precision
from ocr.image_size import with_chosen_size
from ocr.splits import draw_if_synthetic

log = logging.getLogger(__name__)

PATIENCE = 300.0
"""Seconds to wait for a row's answer; ten times the length of a round are added."""
SHARE_OF_MEMORY = 0.6
"""Share of the free memory that the networks of all open rows may take."""
WITH_PARITY: tuple[Level, ...] = ("input", "input+targets")


def compare_loaders(
    config: CompareConfig, run_dir: Path, after_level: Callable[[Results], None] = lambda _: None
) -> Results:
    """Measures the chosen rows at all levels; writes results.{json,md,png} to `run_dir` and prints the tables.

    After Ctrl-C or an error, the results so far are still printed and written.

    Args:
        after_level: called with the results so far.

    Raises:
        InputError: an unknown row, an unusable data set, or a folder that cannot be written.
    """
    rows = chosen_rows(config.only)
    log.info("writing to %s", run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    draw_if_synthetic(config)
    config = with_chosen_size(config)
    device = resolve_device(config.device)
    pipeline = resolve_pipeline(config.pipeline, resolve_precision(config.trainer.precision, device))
    loading = resolve_loading(config.dataloader, pipeline.image_size, device)
    config = config.model_copy(update={"pipeline": pipeline, "dataloader": loading})
    train, audit = load_split(config, "train", run_dir)
    val = load_split(config, "val", run_dir)[0] if "val-epoch" in config.levels else None
    results = Results(
        environment=environment(device, "scripts/compare_loaders.py"),
        settings=config.model_dump(mode="json"),
        image_statistics={"images": len(train), **audit.statistics},
        memory=_memory(config, train, val, device),
    )
    try:
        # The scratch folder is on the disk of the run: /tmp may be in memory.
        with ended_by_ctrl_c(results), TemporaryDirectory(dir=run_dir, prefix="scratch_") as scratch:
            workload = Workload(config, at_most(train), train if val is None else at_most(val), Path(scratch))
            _Comparison(config, workload, rows, results, run_dir).run(after_level)
    finally:
        results.verdict = verdict(results)
        comparison_report(results).print()
        write_report(results, run_dir)
    log.info("everything is in %s", run_dir)
    return results


def _memory(config: CompareConfig, train: Manifest, val: Manifest | None, device: torch.device) -> dict[str, int]:
    """Returns the bytes that keeping the whole data set would take, and the free bytes."""
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
        self, config: CompareConfig, workload: Workload, rows: Sequence[Row], results: Results, run_dir: Path
    ) -> None:
        self._config, self._workload = config, workload
        self._rows, self._results = rows, results
        self._run_dir = run_dir
        self._sessions = {row.name: RowSession(row.name, self._starter(row), PATIENCE) for row in rows}
        self._num_workers = {row.name: self._default_workers(row) for row in rows}
        self._progress = progress_bars()
        self._monitor = GpuMonitor()

    def run(self, after_level: Callable[[Results], None]) -> None:
        log.info("starting %d rows", len(self._rows))
        try:
            with self._progress:
                if self._config.sweep:
                    self._find_workers()
                for level in self._config.levels:
                    self._run_level(level)
                    write_json(self._results, self._run_dir)
                    after_level(self._results)
        finally:
            for session in self._sessions.values():
                session.end()
            self._monitor.close()

    def _starter(self, row: Row) -> Callable[[], RowProcess]:
        logs = self._run_dir / "rows"
        logs.mkdir(exist_ok=True)
        return lambda: RowProcess(row.name, self._workload, logs / f"{row.name}.log")

    def _default_workers(self, row: Row) -> int:
        if row.workers_are == "processes":
            return max(self._config.dataloader.num_workers, 1)
        return (self._config.pipeline.num_threads or num_cores()) if row.workers_are == "threads" else 0

    def _find_workers(self) -> None:
        """Finds the number of workers with which each row is fastest at the level `input`."""
        rows = [row for row in self._rows if row.workers_are != "none"]
        candidates = _candidates(num_cores())
        log.info("finding the number of workers of %d rows among %s", len(rows), candidates)
        task = self._progress.add_task("workers", total=len(rows))
        for row in rows:
            session = self._sessions[row.name]
            found: dict[int, Measurement] = {}
            for number in candidates:
                measurement = found.setdefault(number, Measurement())
                if session.open(measurement, "input", number) is None:
                    break
                self._measure(row, measurement)
            session.close()
            if all(measurement.rounds for measurement in found.values()):
                self._results.sweeps[row.name] = found
                self._num_workers[row.name] = fastest(found)
            self._progress.advance(task)

    def _run_level(self, level: Level) -> None:
        """Measures all rows.

        If memory does not hold the networks of all rows at once, groups of rows take turns. Each group is measured together with
        the first row, which is the replayed batch unless `only` leaves it out.
        """
        self._results.unfinished = level
        first, *others = self._rows
        opened = [first] if self._open(level, first) else []
        size = len(others)
        if level in WITH_NETWORK and opened:
            size = min(size, max(1, self._num_fitting(self._results.measurement(level, first.name)) - 1))
        log.info("%s: measuring %d rows, %d rounds", level, len(self._rows), self._config.rounds)
        task = self._progress.add_task(level, total=len(self._rows) * self._config.rounds)
        for start in range(0, max(len(others), 1), max(size, 1)):
            group = [row for row in others[start : start + size] if self._open(level, row)]
            self._run_rounds(level, [*opened, *group], task)
            for row in group:
                self._sessions[row.name].close()
                if level in WITH_NETWORK:  # only the end of a process is sure to free its memory
                    self._sessions[row.name].end()
        for row in opened:
            self._sessions[row.name].close()
        self._progress.update(task, completed=len(self._rows) * self._config.rounds)
        self._results.unfinished = None

    def _open(self, level: Level, row: Row) -> bool:
        session, measurement = self._sessions[row.name], self._results.measurement(level, row.name)
        session.open(measurement, level, self._num_workers[row.name])
        if level in WITH_PARITY:
            session.compare_with_oracle(measurement)
        if measurement.reason is not None:
            session.close()
        return measurement.reason is None

    def _num_fitting(self, measurement: Measurement) -> int:
        """Returns the number of processes of this size that fit into the free memory."""
        device = self._workload.device
        free = FreeMemory.measured(device)
        fitting = SHARE_OF_MEMORY * (free.ram + measurement.opened_bytes) / max(measurement.opened_bytes, 1)
        if device.type == "cuda":
            on_gpu = max(measurement.opened_gpu_bytes, 1)
            fitting = min(fitting, SHARE_OF_MEMORY * (free.gpu + on_gpu) / on_gpu)
        return int(fitting)

    def _run_rounds(self, level: Level, rows: Sequence[Row], task: TaskID) -> None:
        passes = [False, True] if level == "input" and self._config.cold else [False]
        for round_ in range(self._config.rounds):
            for row in rows if round_ % 2 == 0 else rows[::-1]:
                measurement = self._results.measurement(level, row.name)
                for cold in passes:
                    if not cold or measurement.reads_files:
                        self._measure(row, measurement, cold)
                self._progress.advance(task)

    def _measure(self, row: Row, measurement: Measurement, cold: bool = False) -> None:
        started = time.perf_counter()
        round_ = self._sessions[row.name].measure(measurement, MeasureRound(self._config.seconds, cold))
        if round_ is not None:
            round_.gpu_percent = self._monitor.percent_since(started)


def _candidates(num_cores: int) -> list[int]:
    """Returns 1, 2, 4 and so on, up to the number of cores."""
    powers = [1 << exponent for exponent in range(num_cores.bit_length())]
    return sorted({number for number in powers if number <= num_cores} | {num_cores})


def fastest(found: Mapping[int, Measurement]) -> int:
    """Returns the smallest number of workers that is as fast as the fastest."""
    rates = {number: measurement.rate for number, measurement in found.items()}
    return min(number for number, rate in rates.items() if rate >= (1 - SAME_SPEED) * max(rates.values()))
