"""A sweep for people: tables for the terminal, sweep.json and sweep.md."""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.environment import environment_lines
from benchmarks.loaders.config import SweepConfig
from benchmarks.loaders.report import short, spread_text
from benchmarks.loaders.results import Measured
from benchmarks.sweep.results import (
    LEAST_ROUNDS,
    TAIL,
    Combined,
    Judgement,
    Sweep,
    Swept,
    as_overrides_text,
    gain,
    of_the_run,
    value_text,
)
from ocr.atomic_write import write_atomically
from ocr.config import TrainConfig

TITLES = ("value", "images/s", "of present", "batch ms p50", "p99", "1st batch ms", "1st epoch s", "warm-up s", "")
LEGEND = (
    "images/s: median [least-most] of the rounds. of present: ratio of the medians, above 1 is better. batch ms: from one batch to "
    "the next, median of the rounds; p99: what 99 % of a round's batches do not exceed. 1st batch: from making the loader. 1st "
    "epoch: the same to its last batch. warm-up: the first epoch with the network; compiling is in it, and not in images/s. "
    "better, worse: no round lies within those of the present value, and the medians differ by more than 3 %. longer waits: "
    "faster, but p99 is clearly worse."
)
NOTHING_BETTER = "No other value is better: leave the configuration as it is."
OWN_KEYS = tuple(name for name in SweepConfig.model_fields if name not in TrainConfig.model_fields)


def conclusions(sweep: Sweep) -> list[str]:
    """What follows, and the line to paste; only of what was measured."""
    lines = []
    for swept in sweep.swept:
        lines.append(_conclusion(swept))
    one_sided = [
        f"{swept.factor.key}={value_text(best)} is better at {swept.factor.level}, but not wherever it acts: not recommended."
        for swept in sweep.swept
        if (best := swept.best()) is not None and sweep.recommended().get(swept.factor.key) != best
    ]
    lines += one_sided
    for together in sweep.combined:
        ratio = gain(together.present, together.combined, "images_per_second")
        told = "not measured" if ratio is None else f"{ratio:.2f} times the speed"
        values = " ".join(as_overrides_text(together.values))
        lines.append(f"Together at {together.level} ({values}): {told}, {together.judgement}.")
    confirmed = sweep.confirmed()
    for key in confirmed or sweep.recommended():
        cautions = {swept.factor.caution for swept in sweep.swept if swept.factor.key == key and swept.factor.caution}
        lines += [f"Before taking {key}: {caution}." for caution in sorted(cautions)]
    if confirmed:
        left_out = {key: value for key, value in sweep.recommended().items() if key not in confirmed}
        if left_out:
            lines.append(f"Not found again together, so left out: {' '.join(as_overrides_text(left_out))}.")
        arguments = [*of_the_run(sweep.environment["command"], OWN_KEYS), *as_overrides_text(confirmed)]
        lines.append(f"Paste: uv run scripts/train.py {shlex.join(arguments)}")
    elif sweep.recommended() and sweep.is_measured_together():
        lines.append("Together they are not better than the present configuration: leave it as it is.")
    elif sweep.recommended():
        lines.append("The better values were not measured together, or not to the end: they are yet to be confirmed.")
    elif any(judgement != "not judged" for swept in sweep.swept for judgement in swept.judgements().values()):
        lines.append("Leave the configuration as it is." if one_sided else NOTHING_BETTER)
    else:
        lines.append("Nothing was measured that a conclusion could be drawn from.")
    return lines


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


def print_sweep(sweep: Sweep, console: Console) -> None:
    """One table for each setting at each level, and the conclusions."""
    for title, cells, reasons in _tables(sweep):
        used = _used_columns(cells)
        table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title_justify="left")
        for place in used:
            table.add_column(TITLES[place], justify="left" if place in (0, len(TITLES) - 1) else "right")
        for row in cells:
            table.add_row(*(row[place] for place in used))
        console.print(table)
        for reason in reasons:
            console.print(f"  {reason}", style="dim", highlight=False, markup=False)
    for factor in sweep.not_varied:
        console.print(f"  {factor.title}: not varied: {factor.reason}", style="dim", highlight=False, markup=False)
    console.print(LEGEND, style="dim", highlight=False, markup=False)
    if sweep.is_interrupted:
        console.print("Interrupted: not all rounds were measured.", style="bold yellow")
    console.print()
    for line in conclusions(sweep):
        console.print(line, style="bold" if line.startswith("Paste") else None, highlight=False, markup=False)


def write_sweep(sweep: Sweep, folder: Path) -> None:
    """sweep.json: every round of what was measured so far; and sweep.md."""
    document = sweep.document() | {"conclusions": conclusions(sweep)}
    write_atomically(folder / "sweep.json", (json.dumps(document, indent=1) + "\n").encode())
    write_atomically(folder / "sweep.md", markdown(sweep).encode())


def markdown(sweep: Sweep) -> str:
    """The conclusions, the machine and the tables."""
    rounds = f"rounds: {sweep.settings['rounds']}, of {sweep.settings['seconds']} s or a whole epoch; {_inputs(sweep)}"
    lines = ["# Settings varied one at a time", ""]
    if sweep.is_interrupted:
        lines += ["Interrupted: not all rounds were measured.", ""]
    lines += [
        *(f"- {line}" for line in environment_lines(sweep.environment, rounds)),
        "",
        "## Conclusions",
        "",
        *(f"- {line}" for line in conclusions(sweep)),
        "",
    ]
    for title, cells, reasons in _tables(sweep):
        used = _used_columns(cells)
        lines += [f"## {title}", "", f"| {' | '.join(TITLES[place] for place in used)} |"]
        lines += ["|" + "|".join(" --- " if place in (0, len(TITLES) - 1) else " ---: " for place in used) + "|"]
        lines += [f"| {' | '.join(line[place] for place in used)} |" for line in cells]
        lines += ["", *(f"- {reason}" for reason in reasons), *([""] if reasons else [])]
    if sweep.not_varied:
        lines += ["## Not varied here", ""]
        lines += [f"- {factor.title}: {factor.reason}" for factor in sweep.not_varied]
        lines += [""]
    return "\n".join([*lines, LEGEND]) + "\n"


def _inputs(sweep: Sweep) -> str:
    pipeline, loaders = sweep.settings["pipeline"], sweep.settings["dataloader"]
    side = pipeline["augmentation"]["crop_size"] or pipeline["image_size"]
    return (
        f"{sweep.num_images} training images, batches of {loaders['batch_size']} at {side} (val-epoch: "
        f"{loaders['eval_batch_size']} at {pipeline['image_size']})"
    )


def _tables(sweep: Sweep) -> list[tuple[str, list[list[str]], list[str]]]:
    """Title, cells and reasons why a value is not in them."""
    tables = []
    for swept in sweep.swept:
        found = swept.judgements()
        rows: list[tuple[str, Measured, str]] = [(value_text(swept.factor.present), swept.present, "present")]
        rows += [(value_text(value), measured, found[value]) for value, measured in swept.others]
        by_first_epoch = swept.factor.judged_by == "first_epoch_seconds"
        title = swept.factor.title + (" (judged by its first epoch)" if by_first_epoch else "")
        tables.append((title, *_rows(rows, swept.present, by_first_epoch)))
    for together in sweep.combined:
        values = " ".join(as_overrides_text(together.values))
        tables.append((f"together at {together.level}: {values}", *_combined_rows(together)))
    return tables


def _combined_rows(together: Combined) -> tuple[list[list[str]], list[str]]:
    rows = [("present", together.present, "present"), ("together", together.combined, str(together.judgement))]
    return _rows(rows, together.present, False)


def _rows(
    rows: Sequence[tuple[str, Measured, str]], present: Measured, by_first_epoch: bool
) -> tuple[list[list[str]], list[str]]:
    cells, reasons = [], []
    for value, measured, judgement in rows:
        if measured.reason is not None:
            reasons.append(f"{value}: {measured.reason}")
        if not measured.rounds:
            continue
        ratio = gain(present, measured, "first_epoch_seconds" if by_first_epoch else "images_per_second")
        median_ms, tail_ms = measured.batch_ms(0.5), measured.batch_ms(TAIL)
        first_epoch = measured.first_epoch_seconds
        cells.append(
            [
                value,
                spread_text(measured.images_per_second),
                "" if ratio is None or measured is present else f"{ratio:.2f}",
                "" if median_ms is None else short(median_ms.median),
                "" if tail_ms is None else spread_text(tail_ms),
                "" if measured.first_batch_seconds is None else f"{1000 * measured.first_batch_seconds:.0f}",
                spread_text(first_epoch) if by_first_epoch else "",
                "" if measured.warm_up_seconds is None else f"{measured.warm_up_seconds:.1f}",
                judgement if len(measured.rounds) >= LEAST_ROUNDS else "too few rounds",
            ]
        )
    return cells, reasons


def _used_columns(cells: Sequence[Sequence[str]]) -> list[int]:
    return [place for place in range(len(TITLES)) if place == 0 or any(line[place] for line in cells)]
