"""The figures for people: tables for the terminal, results.json, results.md and results.png."""

import json
import logging
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.environment import environment_lines
from benchmarks.loaders.config import WITH_NETWORK, Level
from benchmarks.loaders.results import Measured, Results, Spread
from benchmarks.loaders.rows import ROWS
from ocr.atomic_write import write_atomically

log = logging.getLogger(__name__)

TITLES: dict[Level, str] = {
    "decode": "decode: files to pixels, nothing else",
    "input": "input: decode, resize, normalise, batch",
    "input+targets": "input+targets: input, and the target maps of DBNet",
    "train-step": "train-step: input+targets, and a training step of the network",
    "val-epoch": "val-epoch: a validation epoch after the first, post-processing and metric beside it",
}
BENCH_EXTRA = "uv sync --extra bench"


@dataclass(frozen=True)
class _Column:
    title: str
    text: Callable[[Results, Level, str, Measured], str]
    """Of a row that was measured; empty where there is nothing to tell."""


def spread_text(spread: Spread | None) -> str:
    if spread is None:
        return ""
    return f"{short(spread.median)} [{short(spread.least)}-{short(spread.most)}]"


def short(value: float) -> str:
    """Three digits or so: 4.21, 38.5, 412, 145k, 10.8M."""
    for limit, divisor, digits, unit in ((10, 1, 2, ""), (100, 1, 1, ""), (10_000, 1, 0, ""), (1e6, 1e3, 0, "k")):
        if value < limit:
            return f"{value / divisor:.{digits}f}{unit}"
    return f"{value / 1e6:.1f}M"


def _number(value: float | None, digits: int = 0, scale: float = 1.0) -> str:
    return "" if value is None else f"{value * scale:.{digits}f}"


def _parity(measured: Measured) -> str:
    parity = measured.parity
    if parity is None:
        return ""
    return f"{parity['mean_levels']:.2f} / {parity['max_levels']:.0f}" + ("" if parity["in_order"] else " *")


def _agreement(measured: Measured) -> str:
    """p: polygons, m: maps; = equal, ! not."""
    parity = measured.parity or {}
    told = {"p": parity.get("polygons_equal"), "m": parity.get("maps_equal")}
    return " ".join(f"{name}{'=' if equal else '!'}" for name, equal in told.items() if equal is not None)


_COLUMNS = (
    _Column("images/s", lambda results, level, name, measured: spread_text(measured.images_per_second)),
    _Column("cold", lambda results, level, name, measured: _median_of(measured.cold_images_per_second)),
    _Column("MB read", lambda results, level, name, measured: _number(measured.megabytes_read_per_image, 2)),
    _Column("% replay", lambda results, level, name, measured: _number(results.share_of_replay(level, name), 0, 100)),
    _Column("CPU ms", lambda results, level, name, measured: spread_text(measured.cpu_ms_per_image)),
    _Column("CPU %", lambda results, level, name, measured: _number(measured.cpu_percent)),
    _Column("GPU %", lambda results, level, name, measured: _number(measured.gpu_percent)),
    _Column("RAM GB", lambda results, level, name, measured: _number(measured.peak_memory, 2, 1e-9)),
    _Column("GPU GB", lambda results, level, name, measured: _number(measured.gpu_bytes or None, 2, 1e-9)),
    _Column("1st ms", lambda results, level, name, measured: _number(measured.first_batch_seconds, 0, 1000)),
    _Column("levels off", lambda results, level, name, measured: _parity(measured)),
    _Column("same", lambda results, level, name, measured: _agreement(measured)),
)

LEGEND = (
    "images/s: median [least-most] of the rounds. cold: the same with the files dropped from the page cache. MB read: from disk, "
    "cold, an image. % replay: of the speed on one batch over and over, the limit. CPU ms: user and system time an image, workers "
    "included. CPU %: 100 is one core. RAM: peak. 1st: from making the loader to its first batch. levels off: mean / largest "
    "difference of the pixels to the oracle, in levels of 255; * images came in another order. same: p polygons, m maps equal the "
    "oracle's (=) or not (!)."
)


def _median_of(spread: Spread | None) -> str:
    return "" if spread is None else short(spread.median)


def _cells(results: Results, level: Level) -> tuple[list[str], dict[str, list[str]]]:
    """Titles of the columns that say something, and the cells of each measured row, fastest first."""
    rows = {row.name: measured for row in ROWS if (measured := results.found(level, row.name)) is not None}
    names = sorted(rows, key=lambda name: -_speed(rows[name]))
    cells = {name: [column.text(results, level, name, rows[name]) for column in _COLUMNS] for name in names}
    used = [place for place in range(len(_COLUMNS)) if any(line[place] for line in cells.values())]
    titles = [_COLUMNS[place].title for place in used]
    return titles, {name: [line[place] for place in used] for name, line in cells.items()}


def _speed(measured: Measured) -> float:
    rate = measured.images_per_second
    return rate.median if rate is not None else 0.0


def _reasons(results: Results, level: Level) -> dict[str, str]:
    """Why rows are not in the table."""
    return {name: measured.reason for name, measured in results.levels.get(level, {}).items() if measured.reason}


def _rows_in_words(results: Results) -> dict[str, str]:
    """What each row is, how its images are resized, and with how many workers."""
    words = {}
    for row in ROWS:
        measured = [rows[row.name] for rows in results.levels.values() if row.name in rows and rows[row.name].rounds]
        if not measured:
            continue
        parities = [m.parity for m in measured if m.parity]
        parts = [row.what, *(f"{parity['resize_filter']}; {parity['dtype']}" for parity in parities[:1])]
        if row.workers_are != "none":
            parts.append(f"{measured[0].num_workers} {row.workers_are}")
        words[row.name] = "; ".join(parts)
    return words


def print_tables(results: Results, console: Console) -> None:
    """One table a level, and the verdict."""
    for level in results.levels:
        titles, cells = _cells(results, level)
        table = Table(title=TITLES[level], box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title_justify="left")
        table.add_column("row", no_wrap=True)
        for title in titles:
            table.add_column(title, justify="right")
        for name, texts in cells.items():
            table.add_row(name, *texts)
        console.print(table)
        for name, reason in _reasons(results, level).items():
            console.print(f"  {name}: {reason}", style="dim", highlight=False, markup=False)
        console.print()
    for name, words in _rows_in_words(results).items():
        console.print(f"  {name}: {words}", style="dim", highlight=False, markup=False)
    console.print(LEGEND, style="dim", highlight=False, markup=False)
    if results.is_interrupted:
        console.print("Interrupted: not all rounds were measured.", style="bold yellow")
    console.print()
    for line in results.verdict:
        console.print(line, style="bold" if line.startswith("Paste") else None, highlight=False, markup=False)


def write_json(results: Results, folder: Path) -> None:
    """results.json: every round of what was measured so far."""
    write_atomically(folder / "results.json", (json.dumps(results.document(), indent=1) + "\n").encode())


def write_report(results: Results, folder: Path) -> None:
    """results.json, results.md and, with matplotlib, results.png."""
    write_json(results, folder)
    write_atomically(folder / "results.md", markdown(results).encode())
    try:
        draw(results, folder / "results.png")
    except ModuleNotFoundError as error:
        log.warning("results.png is not drawn: %s is not installed: %s", error.name, BENCH_EXTRA)


def markdown(results: Results) -> str:
    """The tables, the machine and the verdict."""
    lines = ["# Loaders compared", ""]
    if results.is_interrupted:
        lines += ["Interrupted: not all rounds were measured.", ""]
    lines += [
        *(f"- {line}" for line in environment_lines(results.environment, f"images: {_images_in_words(results)}")),
        "",
        "## Verdict",
        "",
        *(f"- {line}" for line in results.verdict),
        "",
    ]
    for level in results.levels:
        titles, cells = _cells(results, level)
        lines += [f"## {TITLES[level]}", "", f"| row | {' | '.join(titles)} |"]
        lines += ["| --- |" + " ---: |" * len(titles)]
        lines += [f"| {name} | {' | '.join(line)} |" for name, line in cells.items()]
        lines += ["", *(f"- {name}: {reason}" for name, reason in _reasons(results, level).items()), ""]
    lines += ["## Rows", "", *(f"- {name}: {words}" for name, words in _rows_in_words(results).items()), "", LEGEND]
    return "\n".join(lines) + "\n"


def _images_in_words(results: Results) -> str:
    settings = results.settings
    pipeline = settings["pipeline"]
    side = pipeline["augmentation"]["crop_size"] or pipeline["image_size"]
    inputs = "training crops" if settings["augment"] else "whole images"
    epoch = settings["num_images"] or "64, or 8 batches a worker,"
    return (
        f"epochs of {epoch} out of {results.image_statistics['images']}, {inputs} at {side} (val-epoch: {pipeline['image_size']}), "
        f"batches of {settings['dataloader']['batch_size']} (val-epoch: {settings['dataloader']['eval_batch_size']})"
    )


OURS, OTHERS, LIMIT = "#2a6f97", "#b08d57", "#9a9a9a"


def draw(results: Results, path: Path) -> None:
    """Bars of images/s with their spread, one field a level; those that could not run are named below."""
    import matplotlib  # here: it comes with the extra

    matplotlib.use("Agg")
    from matplotlib import pyplot

    levels = [level for level in results.levels if _drawn_rows(results, level)]
    if not levels:
        return
    heights = [len(_drawn_rows(results, level)) + 2.2 for level in levels]
    figure, axes = pyplot.subplots(
        len(levels),
        1,
        figsize=(10, 0.34 * sum(heights) + 1),
        height_ratios=heights,
        squeeze=False,
        layout="constrained",
    )
    for axis, level in zip(axes[:, 0], levels, strict=True):
        _draw_level(axis, results, level)
    environment = results.environment
    figure.suptitle(
        f"{environment['device']}, {environment['cores']} cores: images/s, median and spread\n"
        "blue: this project; brown: others; grey: a batch that is there already",
        fontsize=10,
    )
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _drawn_rows(results: Results, level: Level) -> list[str]:
    """Fastest first. Without a network a batch that is there already takes no time: its bar would hide the others."""
    return [name for name in _cells(results, level)[1] if name != "replay" or level in WITH_NETWORK]


def _draw_level(axis: Any, results: Results, level: Level) -> None:
    ours = {row.name: row.is_ours for row in ROWS}
    spreads = {
        name: spread
        for name in _drawn_rows(results, level)
        if (spread := results.levels[level][name].images_per_second) is not None
    }
    # Rows that hand out what they have kept would hide the others: their bars end at the edge, with an arrow.
    ordinary = [spread.most for name, spread in spreads.items() if not name.endswith("_tensors")]
    most = max(ordinary or [spread.most for spread in spreads.values()])
    edge = 1.1 * most
    for place, (name, spread) in enumerate(spreads.items()):
        colour = LIMIT if name == "replay" else OURS if ours[name] else OTHERS
        is_cut = spread.median > edge
        error = None if is_cut else [[spread.median - spread.least], [spread.most - spread.median]]
        axis.barh(
            place,
            min(spread.median, edge),
            xerr=error,
            color=colour,
            height=0.72,
            error_kw={"elinewidth": 1, "capsize": 2},
        )
        if is_cut:
            axis.text(
                0.99 * edge, place, f"{short(spread.median)} \u2192", va="center", ha="right", fontsize=8, color="w"
            )
        else:
            axis.text(spread.most + 0.01 * most, place, short(spread.median), va="center", fontsize=8)
    axis.set_yticks(range(len(spreads)), list(spreads))
    axis.invert_yaxis()
    axis.set_xlim(0, edge)
    axis.set_title(TITLES[level], loc="left", fontsize=9, fontweight="bold")
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    reasons = _reasons(results, level)
    if reasons:
        names = textwrap.fill("not measured: " + ", ".join(reasons) + " (why: results.md)", 150)
        axis.set_xlabel(names, fontsize=7, loc="left", color="#555555")
