"""What the figures mean for a run, in words: what limits it, which loader to take, what to change."""

import math
import shlex
from typing import Any

from benchmarks.loaders.config import CompareConfig, Level
from benchmarks.loaders.results import Measured, Results
from benchmarks.loaders.rows import ROWS, Row
from ocr.config import TrainConfig

WORTH_A_CHANGE = 0.1
"""A loader that keeps the data set in memory must be cheaper by this share."""
WORTH_A_WORD = 0.03
"""Differences below this share are left unsaid."""
SAME_SPEED = 0.03
PLAIN = ("torch", "dali_cpu", "dali_gpu")
"""Our loaders that keep nothing from one epoch to the next, as those of the others."""
PLAINEST_FIRST = ("dali_gpu", "dali_cpu", "torch", "dali_images", "torch_ram")
"""What a run can train with."""
BYTES_SENT = {"torch": 3, "torch_ram": 3, "dali_cpu": 12}
"""A pixel to the GPU: levels, or float32. DALI on the GPU sends files."""
DISK = "disk, when the files are not in RAM"
PRESETS = ((10, "constrained"), (20, "balanced"), (math.inf, "max"))
"""GB of the GPU below which a preset is named."""


def verdict(results: Results) -> list[str]:
    """Sentences for the terminal and the report; only of what was measured."""
    if not any(measured.rounds for rows in results.levels.values() for measured in rows.values()):
        return ["Nothing was measured that a verdict could be drawn from."]
    best = recommended(results)
    lines = [] if best is None else _training(results, best)
    lines += _rivals(results)
    lines += _workers(results)
    if best is not None:
        lines += _disk(results, best)
    lines += _validation(results)
    lines += _hardware_decode(results)
    if best is not None:
        lines.append(f"Paste: uv run scripts/train.py {paste(results, best)}")
    return lines


def recommended(results: Results) -> Row | None:
    """Of the loaders that a run on this machine can train with, the fastest of the level nearest to training. Of those that are
    as fast, or whose spreads overlap, the one that takes the least processor time by itself; a plain one goes before one that
    keeps the data set in memory."""
    for level in ("train-step", "input+targets", "input"):
        found = [name for name in PLAINEST_FIRST if results.found(level, name) and _is_possible(results, name)]
        if found:
            fastest = max(found, key=lambda name: _rate(results, level, name))
            nearly = [name for name in found if _as_fast(results, level, name, fastest)]
            best = nearly[0]
            for name in nearly[1:]:
                if _loader_cost(results, level, name) < (1 - WORTH_A_CHANGE) * _loader_cost(results, level, best):
                    best = name
            return next(row for row in ROWS if row.name == best)
    return None


def _is_possible(results: Results, name: str) -> bool:
    """Whether a run can have it: not DALI on the CPU beside a GPU, and what is kept must fit into half of what is free."""
    on_gpu = results.environment["device_type"] == "cuda"
    memory = results.memory
    if name == "dali_images":
        free = memory["free_gpu_bytes"] if on_gpu else memory["free_ram_bytes"]
        return memory["train_decoded_bytes"] < free / 2
    if name == "torch_ram":
        return memory["train_file_bytes"] < memory["free_ram_bytes"] / 2
    return not (name == "dali_cpu" and on_gpu)


def paste(results: Results, row: Row) -> str:
    """The overrides that give a run this loader and the preset that this machine can hold."""
    parts = [argument for argument in results.environment["command"][1:] if _is_of_the_run(argument)]
    parts += [*(row.options or "").split(), f"performance={_preset(results, row)}"]
    num_workers = max((measured.num_workers for measured in _at_all_levels(results, row.name)), default=0)
    if num_workers:
        key = "dataloader.num_workers" if row.workers_are == "processes" else "pipeline.num_threads"
        parts.append(f"{key}={num_workers}")
    return shlex.join(parts)


COMPARISON_KEYS = (
    *(f"{name}=" for name in CompareConfig.model_fields if name not in TrainConfig.model_fields),
    "loader=",
    "performance=",
    "hydra.",
)


def _is_of_the_run(argument: str) -> bool:
    return "=" in argument and not argument.startswith(COMPARISON_KEYS)


def _preset(results: Results, row: Row) -> str:
    gpu_bytes = results.environment["gpu_bytes"]
    if gpu_bytes is not None:
        preset = next(name for gigabytes, name in PRESETS if gpu_bytes / 1e9 < gigabytes)
        return "balanced" if preset == "max" and row.name != "dali_images" else preset  # max keeps decoded images
    memory = results.memory
    return "balanced" if memory["val_tensor_bytes"] < memory["free_ram_bytes"] / 2 else "constrained"


def _as_fast(results: Results, level: Level, name: str, fastest: str) -> bool:
    one, other = results.found(level, name), results.found(level, fastest)
    nearly = _rate(results, level, name) >= (1 - SAME_SPEED) * _rate(results, level, fastest)
    return nearly or (one is not None and other is not None and _is_noise(one, other))


def _loader_cost(results: Results, level: Level, name: str) -> float:
    """Processor time an image where no network hides it, if that was measured."""
    for alone in ("input+targets", "input"):
        if results.found(alone, name):
            return _cpu_ms(results, alone, name)
    return _cpu_ms(results, level, name)


def _training(results: Results, best: Row) -> list[str]:
    whole, alone = results.found("train-step", best.name), results.found("train-step", "replay")
    stages = loader_stages(results, best)
    told = ", ".join(f"{name} {milliseconds:.1f}" for name, milliseconds in stages.items())
    lines = []
    if whole is not None and alone is not None:
        step, total = _ms(alone), _ms(whole)
        waiting = max(0.0, 1 - step / total)
        if _is_noise(whole, alone):
            lines.append(
                f"Training is limited by the network as far as these rounds can tell: {step:.1f} ms an image on a batch that is "
                f"there already, {total:.1f} ms with {best.name}, and their spreads overlap. More rounds tell more."
            )
        elif waiting <= 2 * WORTH_A_WORD:
            lines.append(
                f"Training is limited by the network: a step takes {step:.1f} ms an image on a batch that is there already, and "
                f"{total:.1f} ms with {best.name}. A faster loader cannot help."
            )
        else:
            in_memory = {name: value for name, value in stages.items() if name != DISK}
            limit = max(in_memory, key=lambda name: in_memory[name]) if in_memory else "not measured"
            lines.append(
                f"Training waits {waiting:.0%} of its time for {best.name}: {total:.1f} ms an image, of which the network takes "
                f"{step:.1f}. Most of what the loader does is: {limit}."
            )
            if in_memory and sum(in_memory.values()) < total - step:
                lines.append(
                    "By itself the loader is faster than that: the two get in each other's way for the same cores."
                )
    if told:
        lines.append(f"What {best.name} spends by itself, ms an image (wall clock): {told}.")
    return lines


def loader_stages(results: Results, row: Row) -> dict[str, float]:
    """Milliseconds an image that each stage of a loader adds, as far as they were measured."""
    decode, whole = (results.found(level, row.name) for level in ("decode", "input"))
    with_targets = results.found("input+targets", row.name)
    stages: dict[str, float] = {}
    if decode is not None:
        stages["decode"] = _ms(decode)
    if whole is not None:
        name = "decode, resize and normalise" if decode is None else "resize and normalise"
        stages[name] = max(0.0, _ms(whole) - stages.get("decode", 0.0))
        if whole.cold_images_per_second is not None:
            stages[DISK] = max(0.0, 1000 / whole.cold_images_per_second.median - _ms(whole))
        if with_targets is not None:
            stages["targets"] = max(0.0, _ms(with_targets) - _ms(whole))
    per_megabyte, sent = results.environment["transfer_ms_per_megabyte"], BYTES_SENT.get(row.name)
    if per_megabyte is not None and sent is not None:
        pipeline = results.settings["pipeline"]
        side = pipeline["augmentation"]["crop_size"] or pipeline["image_size"]
        stages["transfer to the GPU"] = per_megabyte * sent * side**2 / 1e6
    return stages


def _rivals(results: Results) -> list[str]:
    """What loaders that keep nothing take at `input`, ours beside the best of the others: said whether we like it or not."""
    level: Level = "input"
    own = [name for name in PLAIN if results.found(level, name)]
    others = [row.name for row in ROWS if not row.is_ours and results.found(level, row.name)]
    if not own or not others:
        return []
    told = ", ".join(f"{name} {_cpu_ms(results, level, name):.2f}" for name in own)
    cheapest = min(others, key=lambda name: _cpu_ms(results, level, name))
    fastest = max(others, key=lambda name: _rate(results, level, name))
    filtered = [name for name in others if "antialiased" in _filter_of(results, name)]
    lines = [f"Processor time at input, ms an image: {told}."]
    if filtered:
        best = min(filtered, key=lambda name: _cpu_ms(results, level, name))
        lines[0] += f" The best of the others with an antialiased filter, {best}: {_cpu_ms(results, level, best):.2f};"
        lines[0] += (
            f" of all others, {cheapest}: {_cpu_ms(results, level, cheapest):.2f} ({_filter_of(results, cheapest)})."
        )
    else:
        lines[0] += f" The best of the others, {cheapest}: {_cpu_ms(results, level, cheapest):.2f}."
    own_best = max(own, key=lambda name: _rate(results, level, name))
    ratio = _rate(results, level, fastest) / _rate(results, level, own_best)
    if ratio > 1 + WORTH_A_WORD:
        lines.append(
            f"By the clock {fastest} ({_filter_of(results, fastest)}) is {ratio:.2f} times as fast as {own_best}."
        )
    return lines


def _filter_of(results: Results, name: str) -> str:
    measured = results.found("input", name)
    parity = measured.parity if measured is not None else None
    return parity["resize_filter"] if parity else "filter unknown"


def _workers(results: Results) -> list[str]:
    """The sweeps of our plain loaders; those of the others are in results.json."""
    kinds = {row.name: row.workers_are for row in ROWS}
    lines = []
    for name in PLAIN:
        if name in results.sweeps:
            rates = ", ".join(
                f"{number}: {rate.median:.0f}"
                for number, measured in results.sweeps[name].items()
                if (rate := measured.images_per_second)
            )
            best = max((measured.num_workers for measured in _at_all_levels(results, name)), default=0)
            lines.append(
                f"{kinds[name].capitalize()} of {name}, images/s at input by number: {rates}; {best} were used."
            )
    return lines


def _at_all_levels(results: Results, name: str) -> list[Measured]:
    return [rows[name] for rows in results.levels.values() if name in rows]


def _disk(results: Results, best: Row) -> list[str]:
    measured = results.found("input", best.name)
    if measured is None or measured.cold_images_per_second is None or measured.images_per_second is None:
        return []
    read, size = measured.megabytes_read_per_image or 0.0, results.memory["train_file_bytes"] / 1e6
    if read < size / results.image_statistics["images"] / 2:
        return [
            "What the disk costs is not known: the files could not be dropped from the page cache, or do not lie on a disk."
        ]
    slower = 1 - measured.cold_images_per_second.median / measured.images_per_second.median
    if slower <= 2 * WORTH_A_WORD:
        return ["The disk does not matter: files that are not in RAM are read as fast as they are decoded."]
    return [
        f"Files that are not in RAM cost {best.name} {slower:.0%} of its speed: a first epoch is slower, and every one if RAM does "
        "not hold the data set; datasets.train_dataset.config.preload_images=true reads them once."
    ]


def _validation(results: Results) -> list[str]:
    level: Level = "val-epoch"
    kept, plain = results.found(level, "dali_tensors"), None
    for name in ("dali_gpu", "dali_cpu", "torch"):
        plain = plain or results.found(level, name)
    lines = []
    if kept is not None and plain is not None:
        saved = 1 - _ms(kept) / _ms(plain)
        if saved > WORTH_A_WORD:
            lines.append(
                f"In validation, finished tensors save {saved:.0%} of the time from the second epoch on "
                f"({_ms(plain):.1f} -> {_ms(kept):.1f} ms an image)."
            )
        else:
            lines.append(
                "In validation, finished tensors save nothing that shows: its forward pass takes nearly all of the time."
            )
    measured = kept or plain
    forward = measured.stage_ms_per_image("forward") if measured else None
    blocked = measured.stage_ms_per_image("blocked") if measured else None
    if measured is not None and forward is not None and blocked is not None:
        share = blocked / _ms(measured)
        if share > 2 * WORTH_A_WORD:
            lines.append(
                f"Validation waits {share:.0%} of its time for post-processing and metric; raise postprocess.num_workers."
            )
        else:
            lines.append(
                f"Validation is limited by its forward pass ({forward:.1f} of {_ms(measured):.1f} ms an image); post-processing "
                "and metric run beside it."
            )
    return lines


def _hardware_decode(results: Results) -> list[str]:
    """What a GPU's JPEG engines leave to the processor, from the headers of all training images."""
    statistics = results.image_statistics
    total = statistics["images"]
    refused = {
        "progressive": _count(statistics, "coding", "progressive"),
        "CMYK": _count(statistics, "color", "cmyk"),
        "not JPEG": _count(statistics, "format", "PNG"),
    }
    doubtful = {name: _count(statistics, "sampling", name) for name in ("4:4:4", "4:4:0", "4:1:1", "4:1:0")}
    told = ", ".join(f"{name} {count / total:.1%}" for name, count in refused.items() if count)
    perhaps = ", ".join(f"{name} {count / total:.1%}" for name, count in doubtful.items() if count)
    line = f"A GPU's JPEG engines decode baseline JPEGs; of this data set they leave to the processor: {told or 'nothing'}."
    if perhaps:
        line += f" It depends on the GPU whether they take: {perhaps}."
    return [line]


def _count(statistics: dict[str, Any], group: str, name: str) -> int:
    counts = statistics.get(group, {})
    return sum(count for key, count in counts.items() if key.lower() == name.lower())


def _rate(results: Results, level: Level, name: str) -> float:
    measured = results.found(level, name)
    rate = measured.images_per_second if measured is not None else None
    return rate.median if rate is not None else 0.0


def _cpu_ms(results: Results, level: Level, name: str) -> float:
    measured = results.found(level, name)
    cost = measured.cpu_ms_per_image if measured is not None else None
    return cost.median if cost is not None else math.inf


def _is_noise(one: Measured, other: Measured) -> bool:
    """Whether the medians differ by more than a few per cent, but no more than the rounds of one row do among themselves."""
    first, second = one.images_per_second, other.images_per_second
    if first is None or second is None or abs(first.median / second.median - 1) <= 2 * WORTH_A_WORD:
        return False
    return first.overlaps(second)


def _ms(measured: Measured) -> float:
    """Wall-clock milliseconds an image."""
    rate = measured.images_per_second
    return 1000 / rate.median if rate is not None else math.nan
