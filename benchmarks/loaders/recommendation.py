"""Recommends a loader for a run, with the overrides that select it."""

import math
import shlex

from benchmarks.loaders.config import CompareConfig, Level, training_overrides
from benchmarks.loaders.results import Measurement, Results
from benchmarks.loaders.rows import ROWS, Row

MIN_SAVING = 0.1
"""A loader is preferred to a plainer one of equal speed if it costs less by at least this share."""
SAME_SPEED = 0.03
"""Loaders count as equally fast if they are slower than the fastest by at most this share."""
MIN_DIFFERENCE = 0.03
"""Smaller relative differences are not reported."""
PLAINEST_FIRST = ("dali_gpu", "dali_cpu", "torch", "dali_images", "torch_ram")
"""Rows that a run can train with."""
PRESETS = ((10, "constrained"), (20, "balanced"), (math.inf, "max"))
"""Presets, and the GB of GPU memory below which each is recommended."""


def recommended(results: Results) -> Row | None:
    """Returns the fastest loader at the measured level nearest to training, or, among loaders of the same speed, the one with the
    least processor time on its own. A plain loader goes before one that keeps the data set in memory.

    A level that Ctrl-C ended does not count: the loaders it had not reached yet could be faster.
    """
    levels: tuple[Level, ...] = ("train-step", "input+targets", "input")
    for level in levels:
        if level == results.unfinished:
            continue
        rows = results.rows_at(level)
        found = [name for name in PLAINEST_FIRST if name in rows and _is_possible(results, name)]
        if not found:
            continue
        fastest = max(found, key=lambda name: rows[name].rate)
        best, *others = [name for name in found if _as_fast(rows[name], rows[fastest])]
        for name in others:
            if _cost_alone(results, level, name) < (1 - MIN_SAVING) * _cost_alone(results, level, best):
                best = name
        return next(row for row in ROWS if row.name == best)
    return None


def _is_possible(results: Results, name: str) -> bool:
    """Returns whether a run can use the row: not DALI on the CPU beside a GPU; kept data must fit into half of the free memory."""
    on_gpu = results.environment["device_type"] == "cuda"
    memory = results.memory
    if name == "dali_images":
        free = memory["free_gpu_bytes"] if on_gpu else memory["free_ram_bytes"]
        return memory["train_decoded_bytes"] < free / 2
    if name == "torch_ram":
        return memory["train_file_bytes"] < memory["free_ram_bytes"] / 2
    return not (name == "dali_cpu" and on_gpu)


def _as_fast(row: Measurement, fastest: Measurement) -> bool:
    return row.rate >= (1 - SAME_SPEED) * fastest.rate or is_noise(row, fastest)


def is_noise(one: Measurement, other: Measurement) -> bool:
    """Returns whether the medians differ by more than a few per cent although the ranges of the rounds overlap."""
    first, second = one.images_per_second, other.images_per_second
    if first is None or second is None or abs(first.median / second.median - 1) <= 2 * MIN_DIFFERENCE:
        return False
    return first.overlaps(second)


def _cost_alone(results: Results, level: Level, name: str) -> float:
    """Returns the processor time per image, without the network if that was measured."""
    alone = results.found("input+targets", name) or results.found("input", name) or results.found(level, name)
    return alone.cpu_ms if alone is not None else math.inf


def overrides_text(results: Results, row: Row) -> str:
    """Returns the overrides of scripts/train.py that select this loader and the largest preset for this machine."""
    measured_keys = ("loader", "performance", "dataloader.num_workers", "pipeline.num_threads")
    parts = training_overrides(results.environment["command"], CompareConfig, measured_keys)
    parts += [*(row.options or "").split(), f"performance={_preset(results, row)}"]
    num_workers = max((measured.num_workers for measured in results.of_row(row.name)), default=0)
    if num_workers:
        key = "dataloader.num_workers" if row.workers_are == "processes" else "pipeline.num_threads"
        parts.append(f"{key}={num_workers}")
    return shlex.join(parts)


def _preset(results: Results, row: Row) -> str:
    gpu_bytes = results.environment["gpu_bytes"]
    if gpu_bytes is not None:
        preset = next(name for gigabytes, name in PRESETS if gpu_bytes / 1e9 < gigabytes)
        return "balanced" if preset == "max" and row.name != "dali_images" else preset  # max keeps decoded images
    memory = results.memory
    return "balanced" if memory["val_tensor_bytes"] < memory["free_ram_bytes"] / 2 else "constrained"
