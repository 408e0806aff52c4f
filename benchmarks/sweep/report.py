"""The report on a sweep: tables, conclusions, sweep.json and sweep.md."""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path

from benchmarks.environment import environment_lines
from benchmarks.loaders.config import training_overrides
from benchmarks.loaders.results import Measurement, short
from benchmarks.report import Report, Table, write_files
from benchmarks.sweep.config import SweepConfig
from benchmarks.sweep.factors import JudgedBy
from benchmarks.sweep.results import (
    LEAST_ROUNDS,
    TAIL,
    Judgement,
    Sweep,
    Swept,
    as_overrides_text,
    gain,
    value_text,
)
from ocr.program import in_users_words

LEGEND = (
    "images/s: median [least-most] of the rounds. of present: ratio of the medians, above 1 is better. batch ms: from one batch to "
    "the next, median of the rounds; p99: 99th percentile of a round. 1st batch: from making the loader. 1st epoch: the same to "
    "its last batch. warm-up: the first epoch with the network, including compilation, not in images/s. better, worse: the ranges "
    "of the rounds do not overlap and the medians differ by more than 3 %. longer waits: faster, but p99 is clearly worse."
)
NOTHING_BETTER = "No other value is better: leave the configuration as it is."


def conclusions(sweep: Sweep) -> list[str]:
    """Returns sentences on what was measured; the last one is a command to paste, or says that there is none."""
    recommended, confirmed = sweep.recommended(), sweep.confirmed()
    lines = [_conclusion(swept) for swept in sweep.swept]
    one_sided = [
        f"{swept.factor.key}={value_text(best)} is better at {swept.factor.level}, but not wherever it acts: not recommended."
        for swept in sweep.swept
        if (best := swept.best()) is not None and recommended.get(swept.factor.key) != best
    ]
    lines += one_sided
    for together in sweep.combined:
        ratio = gain(together.present, together.combined, "images_per_second")
        speed = "not measured" if ratio is None else f"{ratio:.2f} times the speed"
        values = " ".join(as_overrides_text(together.values))
        lines.append(f"Together at {together.level} ({values}): {speed}, {together.judgement}.")
    for key in confirmed or recommended:
        cautions = {swept.factor.caution for swept in sweep.swept if swept.factor.key == key and swept.factor.caution}
        lines += [f"Before taking {key}: {caution}." for caution in sorted(cautions)]
    left_out = {key: value for key, value in recommended.items() if key not in confirmed}
    if confirmed and left_out:
        lines.append(f"Not confirmed together, so left out: {' '.join(as_overrides_text(left_out))}.")
    return [*lines, _last_conclusion(sweep, bool(one_sided))]


def _conclusion(swept: Swept) -> str:
    factor, found = swept.factor, swept.judgements()
    by_judgement: dict[Judgement, list[str]] = {}
    for value, measured in swept.others:
        ratio = gain(swept.present, measured, factor.judged_by)
        told = value_text(value) if ratio is None else f"{value_text(value)} ({ratio:.2f})"
        by_judgement.setdefault(found[value], []).append(told)
    best = swept.best()
    parts = [f"{judgement}: {', '.join(values)}" for judgement, values in by_judgement.items()]
    start = (
        f"{factor.title}: {value_text(factor.present)} stays" if best is None else f"{factor.title}: {value_text(best)}"
    )
    return f"{start}; {'; '.join(parts)}." if parts else f"{start}; no other value fits this machine."


def _last_conclusion(sweep: Sweep, is_better_somewhere: bool) -> str:
    if confirmed := sweep.confirmed():
        arguments = training_overrides(sweep.environment["command"], SweepConfig, tuple(confirmed))
        return in_users_words(
            f"Paste: uv run scripts/train.py {shlex.join([*arguments, *as_overrides_text(confirmed)])}"
        )
    if sweep.recommended():
        if sweep.is_measured_together():
            return "Together they are not better than the present configuration: leave it as it is."
        return "The better values are unconfirmed: they were not measured together, or not to the end."
    if any(judgement != "not judged" for swept in sweep.swept for judgement in swept.judgements().values()):
        return "Leave the configuration as it is." if is_better_somewhere else NOTHING_BETTER
    return "Nothing was measured that a conclusion could be drawn from."


def sweep_report(sweep: Sweep) -> Report:
    """Returns one table for each setting at each level, and the conclusions."""
    settings = sweep.settings
    rounds = f"rounds: {settings['rounds']}, each {settings['seconds']} s or a whole epoch; {_inputs(sweep)}"
    return Report(
        title="Settings varied one at a time",
        facts=environment_lines(sweep.environment, rounds),
        tables=_tables(sweep),
        appendix=("Not varied here", [f"{factor.title}: {factor.reason}" for factor in sweep.not_varied]),
        legend=LEGEND,
        conclusions=("Conclusions", conclusions(sweep)),
        is_interrupted=sweep.is_interrupted,
    )


def write_sweep(sweep: Sweep, folder: Path) -> None:
    """Writes sweep.json, every round measured so far, and sweep.md.

    Raises:
        InputError: the folder cannot be written.
    """
    document = sweep.document() | {"conclusions": conclusions(sweep)}
    files = {"sweep.json": json.dumps(document, indent=1) + "\n", "sweep.md": sweep_report(sweep).markdown()}
    write_files(folder, files)


def _inputs(sweep: Sweep) -> str:
    pipeline, loaders = sweep.settings["pipeline"], sweep.settings["dataloader"]
    side = pipeline["augmentation"]["crop_size"] or pipeline["image_size"]
    return (
        f"{sweep.num_images} training images, batches of {loaders['batch_size']} at {side} (val-epoch: "
        f"{loaders['eval_batch_size']} at {pipeline['image_size']})"
    )


def _tables(sweep: Sweep) -> list[Table]:
    tables = []
    for swept in sweep.swept:
        found, factor = swept.judgements(), swept.factor
        rows: list[tuple[str, Measurement, str]] = [(value_text(factor.present), swept.present, "present")]
        rows += [(value_text(value), measured, found[value]) for value, measured in swept.others]
        is_first_epoch = factor.judged_by == "first_epoch_seconds"
        title = factor.title + (" (judged by its first epoch)" if is_first_epoch else "")
        tables.append(_table(title, rows, factor.judged_by))
    for together in sweep.combined:
        title = f"together at {together.level}: {' '.join(as_overrides_text(together.values))}"
        rows = [("present", together.present, "present"), ("together", together.combined, together.judgement)]
        tables.append(_table(title, rows, "images_per_second"))
    return tables


def _table(title: str, rows: Sequence[tuple[str, Measurement, str]], judged_by: JudgedBy) -> Table:
    """Returns the table of these rows; the first row has the present value."""
    present = rows[0][1]
    cells = [
        {"value": value} | _cells(measured, judged_by, gain(present, measured, judged_by), judgement)
        for value, measured, judgement in rows
        if measured.rounds
    ]
    notes = [f"{value}: {measured.reason}" for value, measured, _ in rows if measured.reason is not None]
    columns = list(cells[0]) if cells else ["value"]
    return Table(title, columns, [list(line.values()) for line in cells], notes).without_empty_columns()


def _cells(measured: Measurement, judged_by: JudgedBy, ratio: float | None, judgement: str) -> dict[str, str]:
    """Returns the text of each column; empty where nothing was measured."""
    median_ms, first, warm_up = measured.batch_ms(0.5), measured.first_batch_seconds, measured.warm_up_seconds
    return {
        "images/s": str(measured.images_per_second or ""),
        "of present": "" if ratio is None or judgement == "present" else f"{ratio:.2f}",
        "batch ms p50": "" if median_ms is None else short(median_ms.median),
        "p99": str(measured.batch_ms(TAIL) or ""),
        "1st batch ms": "" if first is None else f"{1000 * first:.0f}",
        "1st epoch s": str(measured.first_epoch_seconds or "") if judged_by == "first_epoch_seconds" else "",
        "warm-up s": "" if warm_up is None else f"{warm_up:.1f}",
        "": judgement if len(measured.rounds) >= LEAST_ROUNDS else "too few rounds",
    }
