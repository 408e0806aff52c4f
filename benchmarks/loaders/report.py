"""The report on a comparison: tables, results.json, results.md and results.png."""

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.environment import environment_lines
from benchmarks.loaders.chart import draw
from benchmarks.loaders.config import Level
from benchmarks.loaders.results import Measurement, Results, short
from benchmarks.loaders.rows import ROWS
from benchmarks.report import Report, Table, write_files

log = logging.getLogger(__name__)

TITLES: dict[Level, str] = {
    "decode": "decode: files to pixels, nothing else",
    "input": "input: decode, resize, normalise, batch",
    "input+targets": "input+targets: input, and the target maps of DBNet",
    "train-step": "train-step: input+targets, and a training step of the network",
    "val-epoch": "val-epoch: a validation epoch after the first, post-processing and metric beside it",
}
LEGEND = (
    "images/s: median [least-most] of the rounds. cold: the same, with the files dropped from the page cache. MB read: from disk, "
    "cold, per image. % replay: speed relative to a replayed batch, the limit. CPU ms: user and system time per image, workers "
    "included. CPU %: 100 is one core. RAM: peak. 1st: from making the loader to its first batch. levels off: mean / largest "
    "difference from the oracle's pixels, in levels of 255; * marks images in another order. same: polygons (p) and maps (m) equal "
    "the oracle's (=) or not (!)."
)
BENCH_EXTRA = "uv sync --extra bench"


def _number(value: float | None, digits: int = 0, scale: float = 1.0) -> str:
    return "" if value is None else f"{value * scale:.{digits}f}"


def _cold_text(row: Measurement) -> str:
    return "" if row.cold_images_per_second is None else short(row.cold_images_per_second.median)


def _pixels_text(row: Measurement) -> str:
    if row.parity is None:
        return ""
    return f"{row.parity.mean_levels:.2f} / {row.parity.max_levels:.0f}" + ("" if row.parity.in_order else " *")


def _same_text(row: Measurement) -> str:
    if row.parity is None:
        return ""
    equal = {"p": row.parity.polygons_equal, "m": row.parity.maps_equal}
    return " ".join(f"{name}{'=' if same else '!'}" for name, same in equal.items() if same is not None)


def _cells(row: Measurement, share_of_replay: float | None) -> dict[str, str]:
    """Returns the text of each column; empty where nothing was measured."""
    return {
        "images/s": str(row.images_per_second or ""),
        "cold": _cold_text(row),
        "MB read": _number(row.megabytes_read_per_image, 2),
        "% replay": _number(share_of_replay, 0, 100),
        "CPU ms": str(row.cpu_ms_per_image or ""),
        "CPU %": _number(row.cpu_percent),
        "GPU %": _number(row.gpu_percent),
        "RAM GB": _number(row.peak_memory, 2, 1e-9),
        "GPU GB": _number(row.gpu_bytes or None, 2, 1e-9),
        "1st ms": _number(row.first_batch_seconds, 0, 1000),
        "levels off": _pixels_text(row),
        "same": _same_text(row),
    }


def comparison_report(results: Results) -> Report:
    """Returns one table per level, fastest row first, and the verdict."""
    return Report(
        title="Loaders compared",
        facts=environment_lines(results.environment, f"images: {_images_in_words(results)}"),
        tables=[table for level in results.levels for table in _tables(results, level)],
        appendix=("Rows", _rows_in_words(results)),
        legend=LEGEND,
        conclusions=("Verdict", results.verdict),
        is_interrupted=results.is_interrupted,
    )


def _tables(results: Results, level: Level) -> list[Table]:
    """Returns the table of a level, and one of the rows that decode at a fraction of the size, if any were measured."""
    scaled = {row.name for row in ROWS if row.decodes_scaled}
    measured = results.rows_at(level)
    tables = [_table(results, level, TITLES[level], [name for name in measured if name not in scaled])]
    if scaled & measured.keys():
        title = f"{level}, scaled: the same, with JPEGs decoded at a fraction of their size, so at other pixels"
        tables.append(_table(results, level, title, [name for name in measured if name in scaled]))
    notes = [f"{name}: {row.reason}" for name, row in results.levels[level].items() if row.reason]
    return [*tables[:-1], replace(tables[-1], notes=notes)]


def _table(results: Results, level: Level, title: str, names: Sequence[str]) -> Table:
    rows = results.rows_at(level)
    fastest_first = sorted(names, key=lambda name: -rows[name].rate)
    cells = [{"row": name} | _cells(rows[name], results.share_of_replay(level, name)) for name in fastest_first]
    columns = list(cells[0]) if cells else ["row"]
    return Table(title, columns, [list(line.values()) for line in cells]).without_empty_columns()


def _rows_in_words(results: Results) -> list[str]:
    """Returns a line on each row: its description, resize filter and number of workers."""
    lines = []
    for row in ROWS:
        measured = [each for each in results.of_row(row.name) if each.rounds]
        if not measured:
            continue
        parities = [each.parity for each in measured if each.parity]
        parts = [row.description, *(f"{parity.resize_filter}; {parity.dtype}" for parity in parities[:1])]
        if row.workers_are != "none":
            parts.append(f"{row.workers_are}: {measured[0].num_workers}")
        lines.append(f"{row.name}: {'; '.join(parts)}")
    return lines


def _images_in_words(results: Results) -> str:
    settings = results.settings
    pipeline = settings["pipeline"]
    side = pipeline["augmentation"]["crop_size"] or pipeline["image_size"]
    inputs = "training crops" if settings["augment"] else "whole images"
    epoch = settings["num_images"] or "64, or 8 batches per worker,"
    return (
        f"epochs of {epoch} out of {results.image_statistics['images']}, {inputs} at {side} (val-epoch: {pipeline['image_size']}), "
        f"batches of {settings['dataloader']['batch_size']} (val-epoch: {settings['dataloader']['eval_batch_size']})"
    )


def write_json(results: Results, folder: Path) -> None:
    """Writes results.json: every round measured so far.

    Raises:
        InputError: the folder cannot be written.
    """
    write_files(folder, {"results.json": json.dumps(results.document(), indent=1) + "\n"})


def write_report(results: Results, folder: Path) -> None:
    """Writes results.json, results.md and, with matplotlib, results.png.

    Raises:
        InputError: the folder cannot be written.
    """
    write_json(results, folder)
    write_files(folder, {"results.md": comparison_report(results).markdown()})
    try:
        draw(results, TITLES, folder / "results.png")
    except ModuleNotFoundError as error:
        log.warning("results.png is not drawn: %s is not installed: %s", error.name, BENCH_EXTRA)
