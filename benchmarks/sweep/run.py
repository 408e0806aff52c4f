"""Runs a sweep: one setting at a time, each value in a process of its own, in alternating order."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from pydantic import ValidationError

from benchmarks.environment import environment
from benchmarks.loaders.config import WITH_NETWORK, Level
from benchmarks.loaders.messages import MeasureRound, Opened
from benchmarks.loaders.results import Measurement
from benchmarks.loaders.row_loader import CannotRun
from benchmarks.loaders.row_process import RowProcess, RowSession
from benchmarks.loaders.splits import at_most, load_split
from benchmarks.loaders.workload import Workload
from benchmarks.sweep.config import SweepConfig
from benchmarks.sweep.factors import Factor, Value, chosen_factors, factors_of, varied
from benchmarks.sweep.report import sweep_report, write_sweep
from benchmarks.sweep.results import Combined, Sweep, Swept
from benchmarks.terminal import ended_by_ctrl_c, progress_bars
from dali_pipelines.config import default_num_threads, num_cores
from ocr.device import resolve_device, resolve_loading, resolve_pipeline, resolve_precision
from ocr.image_size import with_chosen_size
from ocr.splits import draw_if_synthetic

log = logging.getLogger(__name__)

PATIENCE = 600.0
"""Seconds to wait for an answer: torch.compile takes minutes on few cores."""
EPOCH_BATCHES = {"cpu": 16, "cuda": 64}
"""Batches of an epoch of the loader alone, unless num_images is set."""


def sweep_defaults(config: SweepConfig, run_dir: Path) -> Sweep:
    """Varies the chosen settings around the configuration; writes sweep.{json,md} to `run_dir` and prints the tables.

    After Ctrl-C or an error, the results so far are still printed and written.

    Raises:
        InputError: an unknown setting, an unusable data set, or a folder that cannot be written.
    """
    device = resolve_device(config.device)
    precision = resolve_precision(config.trainer.precision, device)
    factors = chosen_factors(factors_of(config, device.type, precision, num_cores()), config.only)
    log.info("writing to %s", run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    draw_if_synthetic(config)
    config = with_chosen_size(config)
    loading = resolve_loading(config.dataloader, config.pipeline.image_size, device)
    config = config.model_copy(update={"dataloader": loading})
    train, _ = load_split(config, "train", run_dir)
    to_vary = [factor for factor in factors if factor.reason is None]
    needs_val = any(factor.level == "val-epoch" for factor in to_vary)
    val = load_split(config, "val", run_dir)[0] if needs_val else train
    sweep = Sweep(
        not_varied=[factor for factor in factors if factor.reason is not None],
        environment=environment(device, "scripts/sweep_defaults.py"),
        settings=config.model_dump(mode="json"),
        num_images=len(train),
    )
    if config.num_images is None:
        num_images = EPOCH_BATCHES[device.type] * config.dataloader.batch_size
        config = config.model_copy(update={"num_images": num_images})
    try:
        with ended_by_ctrl_c(sweep), TemporaryDirectory(dir=run_dir, prefix="scratch_") as scratch:
            workload = Workload(config, at_most(train), at_most(val), Path(scratch))
            _Run(config, workload, device, sweep, run_dir).run(to_vary)
    finally:
        sweep_report(sweep).print()
        write_sweep(sweep, run_dir)
    log.info("everything is in %s", run_dir)
    return sweep


class _Variant:
    """The configuration with some values changed, open at one level."""

    def __init__(self, session: RowSession, level: Level, num_threads: int, seconds: float) -> None:
        self._session, self._level, self._num_threads = session, level, num_threads
        self._command = MeasureRound(seconds, time_batches=level not in WITH_NETWORK)
        self._opened: Opened | None = None

    def open(self, measurement: Measurement) -> None:
        """Opens the level unless it is open already, and records the time and memory it took."""
        if self._opened is None:
            self._opened = self._session.open(measurement, self._level, self._num_threads)
        else:
            measurement.num_workers = self._num_threads
            measurement.record_opened(self._opened)

    def measure(self, measurement: Measurement) -> None:
        """Adds a round."""
        if self._session.measure(measurement, self._command) is None:
            self.end()

    def end(self) -> None:
        """Ends the process."""
        self._session.end()
        self._opened = None


class _Run:
    """The sweep while it runs."""

    def __init__(
        self, config: SweepConfig, workload: Workload, device: torch.device, sweep: Sweep, run_dir: Path
    ) -> None:
        self._config, self._workload, self._device = config, workload, device
        self._sweep, self._run_dir = sweep, run_dir
        self._variants: list[_Variant] = []
        self._present: tuple[Level, _Variant] | None = None
        """The present configuration, open at the level that is being varied."""

    def run(self, factors: list[Factor]) -> None:
        num_values = sum(len(factor.values) for factor in factors)
        log.info("varying %d settings, %d values, %d rounds each", len(factors), num_values, self._config.rounds)
        try:
            with progress_bars() as progress:
                task = progress.add_task("sweep", total=len(factors))
                for factor in factors:
                    progress.update(task, description=factor.title)
                    self._vary(factor)
                    progress.advance(task)
                    write_sweep(self._sweep, self._run_dir)
                if self._config.combine and self._sweep.recommended():
                    progress.update(task, description="all better values together")
                    self._combine()
        finally:
            for variant in self._variants:
                variant.end()

    def _vary(self, factor: Factor) -> None:
        log.info("%s: %s, and now %s", factor.title, factor.present, ", ".join(map(str, factor.values)))
        swept = Swept(factor, others=[(value, Measurement()) for value in factor.values])
        self._sweep.swept.append(swept)
        name = factor.title.replace(" at ", "_")
        others = [
            (self._variant(f"{name}_{value}", {factor.key: value}, factor.level), measurement)
            for value, measurement in swept.others
        ]
        in_new_processes = factor.judged_by == "first_epoch_seconds"
        self._rounds([(self._present_at(factor.level), swept.present), *others], in_new_processes)
        for variant, _ in others:
            variant.end()

    def _combine(self) -> None:
        values = self._sweep.recommended()
        for level in self._sweep.levels_of(values):
            log.info("%s: all better values together", level)
            together = Combined(level, values=values)
            self._sweep.combined.append(together)
            combined = self._variant(f"together_{level}", values, level)
            self._rounds([(self._present_at(level), together.present), (combined, together.combined)])
            combined.end()
            write_sweep(self._sweep, self._run_dir)

    def _present_at(self, level: Level) -> _Variant:
        if self._present is None or self._present[0] != level:
            if self._present is not None:
                self._present[1].end()
            self._present = level, self._variant(f"present_{level}", {}, level)
        return self._present[1]

    def _variant(self, name: str, values: Mapping[str, Value], level: Level) -> _Variant:
        session = RowSession(name, lambda: self._start(name, values, level), PATIENCE)
        num_threads = int(values.get("pipeline.num_threads", self._config.pipeline.num_threads))
        variant = _Variant(session, level, num_threads or default_num_threads(), self._config.seconds)
        self._variants.append(variant)
        return variant

    def _start(self, name: str, values: Mapping[str, Value], level: Level) -> RowProcess:
        """Starts the process that measures the configuration with these values.

        Raises:
            CannotRun: the configuration refuses them.
        """
        try:
            config = varied(self._config, values)
        except ValidationError as error:
            raise CannotRun(" ".join(str(error).split())) from error
        pipeline = resolve_pipeline(config.pipeline, resolve_precision(config.trainer.precision, self._device))
        workload = replace(self._workload, config=config.model_copy(update={"pipeline": pipeline}))
        logs = self._run_dir / "rows"
        logs.mkdir(exist_ok=True)
        loader = "dali_gpu" if self._device.type == "cuda" else "dali_cpu"
        return RowProcess("dali_tensors" if level == "val-epoch" else loader, workload, logs / f"{name}.log")

    def _rounds(self, variants: list[tuple[_Variant, Measurement]], in_new_processes: bool = False) -> None:
        """Measures all rounds in alternating order.

        Args:
            in_new_processes: start a process for each round, since a process keeps the memory that its first epoch allocated.
        """
        for round_ in range(self._config.rounds):
            in_turn = variants if round_ % 2 == 0 else variants[::-1]
            if round_ == 0 and not in_new_processes:
                for variant, measurement in in_turn:
                    variant.open(measurement)
            for variant, measurement in in_turn:
                if in_new_processes:
                    variant.end()
                    variant.open(measurement)
                variant.measure(measurement)
                if in_new_processes:
                    variant.end()
