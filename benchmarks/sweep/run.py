"""A sweep from its configuration to its files: one setting at a time, each value in a process of its own, in alternating order."""

import logging
import signal
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from pydantic import ValidationError
from rich.console import Console

from benchmarks.environment import environment, num_cores
from benchmarks.loaders.config import WITH_NETWORK, Level, SweepConfig
from benchmarks.loaders.preparation import at_most, load_split, progress_bars, write_or_explain
from benchmarks.loaders.results import Measured
from benchmarks.loaders.row_process import RowFailed, RowProcess
from benchmarks.loaders.setting import Setting
from benchmarks.loaders.source import CannotRun
from benchmarks.sweep.factors import Factor, Value, chosen_factors, factors_of, varied
from benchmarks.sweep.report import print_sweep, write_sweep
from benchmarks.sweep.results import Combined, Sweep, Swept
from dali_pipelines.config import default_num_threads
from ocr.device import resolve_device, resolve_pipeline, resolve_precision
from ocr.splits import draw_if_synthetic

log = logging.getLogger(__name__)

PATIENCE = 600.0
"""Seconds after which a process that gives no answer is ended: torch.compile takes minutes on few cores."""
EPOCH_BATCHES = {"cpu": 16, "cuda": 64}
"""Of the loader alone, where num_images does not say otherwise."""


def sweep_defaults(config: SweepConfig, run_dir: Path) -> Sweep:
    """Varies the chosen settings around the configuration; writes sweep.{json,md} below `run_dir` and prints the tables.

    What was measured is kept when Ctrl-C, or an error, ends it early.

    Raises:
        InputError: a setting that is not there, a data set that cannot be used, a folder that cannot be written.
    """
    device = resolve_device(config.device)
    precision = resolve_precision(config.trainer.precision, device)
    factors = chosen_factors(factors_of(config, device.type, precision, num_cores()), config.only)
    log.info("writing to %s", run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    draw_if_synthetic(config)
    train, _ = load_split(config, "train", run_dir)
    needs_val = any(factor.level == "val-epoch" and factor.reason is None for factor in factors)
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
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with TemporaryDirectory(dir=run_dir, prefix="scratch_") as scratch:
            setting = Setting(config, at_most(train), at_most(val), Path(scratch))
            _Run(config, setting, device, sweep, run_dir).run([f for f in factors if f.reason is None])
    except KeyboardInterrupt:
        sweep.is_interrupted = True
        log.warning("interrupted; what was measured so far follows")
    finally:
        print_sweep(sweep, Console(width=min(Console().width, 120) if sys.stdout.isatty() else 120))
        write_or_explain(write_sweep, sweep, run_dir)
    log.info("everything is in %s", run_dir)
    return sweep


class _Variant:
    """The configuration with some values changed, in a process of its own."""

    def __init__(self, name: str, values: Mapping[str, Value], run: "_Run", level: Level) -> None:
        self._name, self._values, self._run, self._level = name, values, run, level
        self._process: RowProcess | None = None
        self._opened: dict[str, Any] | None = None

    def open(self, measured: Measured) -> None:
        """Starts the process, makes the loader, warms up, unless that is done; tells what it took."""
        if self._opened is None:
            self._opened = self._ask(measured, "open", level=self._level, num_workers=self._num_threads())
        answer = self._opened
        if answer is None:
            return
        measured.num_workers = self._num_threads()
        measured.first_batch_seconds = answer["first_batch_seconds"]
        measured.warm_up_seconds = answer["warm_up_seconds"]
        measured.opened_bytes, measured.opened_gpu_bytes = answer["peak_memory"], answer["gpu_bytes"]
        if answer["first_epoch_seconds"] is not None:
            measured.first_epoch_rounds.append(answer["first_epoch_seconds"])

    def measure(self, measured: Measured) -> None:
        """One round."""
        answer = self._ask(
            measured,
            "measure",
            seconds=self._run.config.seconds,
            cold=False,
            each_batch=self._level not in WITH_NETWORK,
        )
        if answer is not None:
            measured.rounds.append(answer)

    def end(self) -> None:
        if self._process is not None:
            self._process.end()
            self._run.processes.remove(self._process)
        self._process = self._opened = None

    def _num_threads(self) -> int:
        return (
            int(self._values.get("pipeline.num_threads", self._run.config.pipeline.num_threads))
            or default_num_threads()
        )

    def _ask(self, measured: Measured, do: str, **arguments: Any) -> dict[str, Any] | None:
        """The answer; None, and the reason noted, where there is none."""
        if measured.reason is not None:
            return None
        try:
            if self._process is None:
                self._process = self._run.start(self._name, self._values, self._level)
            return self._process.ask(do, PATIENCE + 10 * self._run.config.seconds, **arguments)
        except (CannotRun, ValidationError) as reason:
            measured.reason = " ".join(str(reason).split())
        except RowFailed as failure:
            measured.reason = f"failed: {failure}"
        log.warning("%s: %s", self._name, measured.reason)
        self.end()
        return None


class _Run:
    """The sweep while it runs."""

    def __init__(
        self, config: SweepConfig, setting: Setting, device: torch.device, sweep: Sweep, run_dir: Path
    ) -> None:
        self.config = config
        self.processes: list[RowProcess] = []
        self._setting, self._device, self._sweep, self._run_dir = setting, device, sweep, run_dir
        self._present: dict[Level, _Variant] = {}
        """The present configuration, open at one level as long as that is varied."""
        self._progress = progress_bars()

    def run(self, factors: list[Factor]) -> None:
        num_values = sum(len(factor.values) for factor in factors)
        log.info("varying %d settings, %d values, %d rounds each", len(factors), num_values, self.config.rounds)
        try:
            with self._progress:
                task = self._progress.add_task("sweep", total=len(factors))
                for factor in factors:
                    self._progress.update(task, description=factor.title)
                    self._vary(factor)
                    self._progress.advance(task)
                    write_or_explain(write_sweep, self._sweep, self._run_dir)
                if self.config.combine and self._sweep.recommended():
                    self._progress.update(task, description="all better values together")
                    self._combine()
        finally:
            for process in self.processes:
                process.end()

    def start(self, name: str, values: Mapping[str, Value], level: Level) -> RowProcess:
        """A process that measures the configuration with these values.

        Raises:
            ValidationError: the configuration refuses them.
        """
        config = varied(self.config, values)
        pipeline = resolve_pipeline(config.pipeline, resolve_precision(config.trainer.precision, self._device))
        setting = replace(self._setting, config=config.model_copy(update={"pipeline": pipeline}))
        logs = self._run_dir / "rows"
        logs.mkdir(exist_ok=True)
        loader = "dali_gpu" if self._device.type == "cuda" else "dali_cpu"
        row = "dali_tensors" if level == "val-epoch" else loader
        process = RowProcess(row, setting, logs / f"{name}.log")
        self.processes.append(process)
        return process

    def _vary(self, factor: Factor) -> None:
        log.info("%s: %s, and now %s", factor.title, factor.present, ", ".join(map(str, factor.values)))
        swept = Swept(factor, others=[(value, Measured()) for value in factor.values])
        self._sweep.swept.append(swept)
        name = factor.title.replace(" at ", "_")
        others = [
            (_Variant(f"{name}_{value}", {factor.key: value}, self, factor.level), measured)
            for value, measured in swept.others
        ]
        afresh = factor.judged_by == "first_epoch_seconds"
        self._rounds([(self._present_at(factor.level), swept.present), *others], afresh)
        for variant, _ in others:
            variant.end()

    def _present_at(self, level: Level) -> _Variant:
        if level not in self._present:
            self._end_present()
            self._present[level] = _Variant(f"present_{level}", {}, self, level)
        return self._present[level]

    def _end_present(self) -> None:
        for variant in self._present.values():
            variant.end()
        self._present.clear()

    def _combine(self) -> None:
        values = self._sweep.recommended()
        for level in self._sweep.levels_of(values):
            log.info("%s: all better values together", level)
            together = Combined(level, values=values)
            self._sweep.combined.append(together)
            combined = _Variant(f"together_{level}", values, self, level)
            self._rounds([(self._present_at(level), together.present), (combined, together.combined)])
            combined.end()
            write_or_explain(write_sweep, self._sweep, self._run_dir)

    def _rounds(self, variants: list[tuple[_Variant, Measured]], afresh: bool = False) -> None:
        """Rounds in alternating order. `afresh`: each in a new process, since the memory that one has allocated stays its own."""
        for round_ in range(self.config.rounds):
            in_turn = variants if round_ % 2 == 0 else variants[::-1]
            if round_ == 0 and not afresh:
                for variant, measured in in_turn:
                    variant.open(measured)
            for variant, measured in in_turn:
                if afresh:
                    variant.end()
                    variant.open(measured)
                variant.measure(measured)
                if afresh:
                    variant.end()
