"""The verdict in words: what limits a run, which loader to use, what to change. Based only on what was measured."""

from typing import Any

from benchmarks.loaders.recommendation import MIN_DIFFERENCE, is_noise, overrides_text, recommended
from benchmarks.loaders.results import Measurement, Results
from benchmarks.loaders.rows import ROWS, Row
from ocr.program import in_users_words

PLAIN = ("torch", "dali_cpu", "dali_gpu")
"""Our loaders that, like the rivals, keep nothing from one epoch to the next."""
PLAIN_SCALED = ("torch_scaled", "dali_scaled")
"""The same loaders with pipeline.scaled_decode."""
BYTES_SENT = {"torch": 3, "torch_ram": 3, "dali_cpu": 12}
"""Bytes of a pixel sent to the GPU: levels, or float32. DALI on the GPU sends files."""
DISK = "disk, when the files are not in RAM"


def verdict(results: Results) -> list[str]:
    """Returns sentences for the terminal and the report; the last one is a command to paste."""
    if not any(results.rows_at(level) for level in results.levels):
        return ["Nothing was measured that a verdict could be drawn from."]
    best = recommended(results)
    return [
        *([f"Interrupted at {results.unfinished}, which therefore decides nothing."] if results.unfinished else []),
        *(_training(results, best) if best else []),
        *_rivals(results.rows_at("input")),
        *_workers(results),
        *(_disk(results, best) if best else []),
        *_validation(results.rows_at("val-epoch")),
        _hardware_decode(results.image_statistics),
        *([in_users_words(f"Paste: uv run scripts/train.py {overrides_text(results, best)}")] if best else []),
    ]


def _training(results: Results, best: Row) -> list[str]:
    whole, alone = results.found("train-step", best.name), results.found("train-step", "replay")
    stages = loader_stages(results, best)
    lines = _limit(best.name, whole, alone, stages) if whole is not None and alone is not None else []
    if stages:
        told = ", ".join(f"{name} {milliseconds:.1f}" for name, milliseconds in stages.items())
        lines.append(f"{best.name} on its own, ms per image (wall clock): {told}.")
    return lines


def _limit(name: str, whole: Measurement, alone: Measurement, stages: dict[str, float]) -> list[str]:
    step, total = alone.ms_per_image, whole.ms_per_image
    waiting = max(0.0, 1 - step / total)
    if is_noise(whole, alone):
        return [
            f"Training is limited by the network as far as these rounds show: {step:.1f} ms per image on a replayed batch, "
            f"{total:.1f} ms with {name}, and their ranges overlap. Measure more rounds to be sure."
        ]
    if waiting <= 2 * MIN_DIFFERENCE:
        return [
            f"Training is limited by the network: a step takes {step:.1f} ms per image on a replayed batch, {total:.1f} ms with "
            f"{name}. A faster loader cannot help."
        ]
    in_memory = {stage: value for stage, value in stages.items() if stage != DISK}
    dearest = max(in_memory, key=lambda stage: in_memory[stage]) if in_memory else "not measured"
    lines = [
        f"Training waits {waiting:.0%} of its time for {name}: {total:.1f} ms per image, {step:.1f} of them for the network. "
        f"The most expensive stage of the loader: {dearest}."
    ]
    if in_memory and sum(in_memory.values()) < total - step:
        lines.append("On its own the loader is faster than that: loader and network compete for the same cores.")
    return lines


def loader_stages(results: Results, row: Row) -> dict[str, float]:
    """Returns the milliseconds per image that each stage of a loader adds, as far as they were measured."""
    decode, whole = (results.found(level, row.name) for level in ("decode", "input"))
    with_targets = results.found("input+targets", row.name)
    stages: dict[str, float] = {}
    if decode is not None:
        stages["decode"] = decode.ms_per_image
    if whole is not None:
        name = "decode, resize and normalise" if decode is None else "resize and normalise"
        stages[name] = max(0.0, whole.ms_per_image - stages.get("decode", 0.0))
        if whole.cold_images_per_second is not None:
            stages[DISK] = max(0.0, 1000 / whole.cold_images_per_second.median - whole.ms_per_image)
        if with_targets is not None:
            stages["targets"] = max(0.0, with_targets.ms_per_image - whole.ms_per_image)
    per_megabyte, sent = results.environment["transfer_ms_per_megabyte"], BYTES_SENT.get(row.name)
    if per_megabyte is not None and sent is not None:
        pipeline = results.settings["pipeline"]
        side = pipeline["augmentation"]["crop_size"] or pipeline["image_size"]
        stages["transfer to the GPU"] = per_megabyte * sent * side**2 / 1e6
    return stages


def _rivals(rows: dict[str, Measurement]) -> list[str]:
    """Compares our plain loaders with the best rivals, whoever wins: those that decode whole images, then the scaled ones."""
    own = [row for row in ROWS if row.name in (*PLAIN, *PLAIN_SCALED) and row.name in rows]
    rivals = [row for row in ROWS if not row.is_ours and row.name in rows]
    lines = []
    for scaled in (False, True):
        ours, theirs = (
            {row.name: rows[row.name] for row in each if row.decodes_scaled == scaled} for each in (own, rivals)
        )
        if ours and theirs:
            lines += _best_rival(ours, theirs, "scaled decoding" if scaled else "whole decoding")
    return lines


def _best_rival(own: dict[str, Measurement], rivals: dict[str, Measurement], kind: str) -> list[str]:
    cheapest = min(rivals, key=lambda name: rivals[name].cpu_ms)
    told = ", ".join(f"{name} {row.cpu_ms:.2f}" for name, row in own.items())
    line = f"Processor time at input, {kind}, ms per image: {told}."
    line += f" Best rival, {cheapest}: {rivals[cheapest].cpu_ms:.2f} ({_filter_of(rivals[cheapest])})."
    own_best, fastest = (max(each, key=lambda name: each[name].rate) for each in (own, rivals))
    ratio = rivals[fastest].rate / own[own_best].rate
    if ratio <= 1 + MIN_DIFFERENCE:
        return [line]
    return [line, f"By the clock {fastest} ({_filter_of(rivals[fastest])}) is {ratio:.2f} times as fast as {own_best}."]


def _filter_of(row: Measurement) -> str:
    return row.parity.resize_filter if row.parity is not None else "filter unknown"


def _workers(results: Results) -> list[str]:
    """Returns a line on the workers of each of our plain loaders; results.json has all rows."""
    kinds = {row.name: row.workers_are for row in ROWS}
    lines = []
    for name in PLAIN:
        if name in results.sweeps:
            rates = ", ".join(f"{number}: {row.rate:.0f}" for number, row in results.sweeps[name].items() if row.rounds)
            used = max((row.num_workers for row in results.of_row(name)), default=0)
            lines.append(f"{kinds[name].capitalize()} of {name}, images/s at input by number: {rates}; used: {used}.")
    return lines


def _disk(results: Results, best: Row) -> list[str]:
    row = results.found("input", best.name)
    if row is None or row.cold_images_per_second is None:
        return []
    read, size = row.megabytes_read_per_image or 0.0, results.memory["train_file_bytes"] / 1e6
    if read < size / results.image_statistics["images"] / 2:
        return [
            "The cost of the disk is unknown: the files could not be dropped from the page cache, or are not on a disk."
        ]
    slower = 1 - row.cold_images_per_second.median / row.rate
    if slower <= 2 * MIN_DIFFERENCE:
        return ["The disk does not matter: files that are not in RAM are read as fast as they are decoded."]
    return [
        f"Files that are not in RAM cost {best.name} {slower:.0%} of its speed: the first epoch is slower, and every epoch if RAM "
        "does not hold the data set; datasets.train_dataset.config.preload_images=true reads them once."
    ]


def _validation(rows: dict[str, Measurement]) -> list[str]:
    kept = rows.get("dali_tensors")
    plain = next((rows[name] for name in ("dali_gpu", "dali_cpu", "torch") if name in rows), None)
    lines = []
    if kept is not None and plain is not None:
        saved = 1 - kept.ms_per_image / plain.ms_per_image
        lines.append(
            f"In validation, cached tensors save {saved:.0%} of the time from the second epoch on ({plain.ms_per_image:.1f} -> "
            f"{kept.ms_per_image:.1f} ms per image)."
            if saved > MIN_DIFFERENCE
            else "In validation, cached tensors save nothing measurable: the forward pass takes nearly all of the time."
        )
    row = kept or plain
    forward, blocked = (row.stage_ms_per_image(stage) if row else None for stage in ("forward", "blocked"))
    if row is not None and forward is not None and blocked is not None:
        share = blocked / row.ms_per_image
        lines.append(
            f"Validation waits {share:.0%} of its time for post-processing and metric; raise postprocess.num_workers."
            if share > 2 * MIN_DIFFERENCE
            else f"Validation is limited by its forward pass ({forward:.1f} of {row.ms_per_image:.1f} ms per image); "
            "post-processing and metric run beside it."
        )
    return lines


def _hardware_decode(statistics: dict[str, Any]) -> str:
    """Returns a sentence on the share of the images that a GPU's JPEG engines leave to the processor, from the files' headers."""

    def shares(*groups_and_names: tuple[str, str, str]) -> str:
        counts = {title: _count(statistics, group, name) for title, group, name in groups_and_names}
        return ", ".join(f"{title} {count / statistics['images']:.1%}" for title, count in counts.items() if count)

    refused = shares(("progressive", "coding", "progressive"), ("CMYK", "color", "cmyk"), ("not JPEG", "format", "PNG"))
    doubtful = shares(*((name, "sampling", name) for name in ("4:4:4", "4:4:0", "4:1:1", "4:1:0")))
    line = f"A GPU's JPEG engines decode baseline JPEGs and leave to the processor, of this data set: {refused or 'nothing'}."
    return f"{line} Whether they take these depends on the GPU: {doubtful}." if doubtful else line


def _count(statistics: dict[str, Any], group: str, name: str) -> int:
    counts = statistics.get(group, {})
    return sum(count for key, count in counts.items() if key.lower() == name.lower())
