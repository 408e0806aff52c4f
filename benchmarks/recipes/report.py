"""The report on recipes: a table for each group, and sentences."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.environment import environment_lines
from benchmarks.recipes.recipes import EVALUATION, GROUPS, Group, Recipe
from benchmarks.recipes.results import ALL, Results, columns_of, score_of
from benchmarks.report import Report, Table

LEGEND = (
    "Scores are hmean at IoU 0.5 and 0.7, means over the seeds; in brackets the mean difference to the baseline at the same seeds. "
    "all: mean of the four scores. better, worse: the difference in `all` (in the first column where there is no `all`) exceeds "
    "twice the range of the baseline over its seeds, divided by the square root of the number of seeds; not clear: it does not. "
    "image: processor time of a training image; page: of a page in validation, from the file to the metric; command: of the whole "
    "command with its start-up. The first two are wall times of one process on one core, times the share of the core that it had."
)

LESS_TIME = 0.5
"""Share of the baseline's time below which a recipe is about time too, and the report says how much it takes."""


def recipes_report(results: Results, notes: Sequence[str]) -> Report:
    """Returns one table for each group that has rows, curves of runs with several validations, and conclusions.

    Args:
        notes: lines for the head of the report.
    """
    measured = [group for group in GROUPS if results.rows_of(group, group.baseline)]
    tables = [_table(results, group) for group in measured]
    tables += [_curves(results, group) for group in measured if group.all_seeds]
    inputs = "images: validation splits of SROIE (60 receipts, text lines) and ICDAR 2015 (30 scenes, words)"
    return Report(
        title="Recipes, one change at a time",
        facts=[*environment_lines(results.environment, inputs), *notes],
        tables=tables,
        # Several groups have the same recipe.
        appendix=("Settings", list(dict.fromkeys(line for group in measured for line in _settings(results, group)))),
        legend=LEGEND,
        conclusions=("What it shows", [line for group in measured for line in conclusions(results, group)]),
        is_interrupted=False,
    )


def conclusions(results: Results, group: Group) -> list[str]:
    """Returns sentences on the clear differences of a group, and on what was not measured."""
    column = _judged_by(results, group)
    by_verdict: dict[str, list[str]] = {}
    missing = []
    for recipe in group.recipes:
        found = results.difference(group, recipe, column)
        if found is None:
            missing.append(recipe.name)
        else:
            verdict = found.verdict if group.has_seeds else _sign(found.mean)
            by_verdict.setdefault(verdict, []).append(f"{recipe.name} ({found.mean:+.4f})")
    score = "the mean of the four scores" if column == ALL else f"hmean of {column}"
    spread = results.spread(group, column)
    lines = []
    if spread is not None:
        seeds = ", ".join(str(row["seed"]) for row in results.rows_of(group, group.baseline))
        lines.append(f"{group.title}: by {score}, the baseline varies by {spread:.4f} over seeds {seeds}.")
    for verdict in ("better", "worse", "not clear", "higher", "lower", "equal"):
        if verdict in by_verdict:
            lines.append(f"{group.title}, {verdict}: {', '.join(by_verdict[verdict])}.")
    lines += [
        _budget(results, group, recipe)
        for recipe in group.recipes
        if group.all_seeds and recipe.name not in missing and _ratio_of_times(results, group, recipe) < LESS_TIME
    ]
    if missing:
        lines.append(f"{group.title}, not measured yet: {', '.join(missing)}.")
    return lines


def _budget(results: Results, group: Group, recipe: Recipe) -> str:
    """Returns a sentence on scores and processor time of a recipe that has less time than its baseline."""
    told = []
    for one in (recipe, group.baseline):
        rows = results.rows_of(group, one)
        seconds = _mean_seconds(rows)
        ranges = [
            f"{min(values):.4f} to {max(values):.4f} ({column})"
            for column in columns_of(rows)
            if (values := [score_of(row, column) for row in rows])
        ]
        told.append(f"{one.name}: {', '.join(ranges)} in {seconds:.0f} s of the processor, {len(rows)} seeds")
    ratio = _ratio_of_times(results, group, recipe)
    return f"{'; '.join(told)}. The ratio of the times is {ratio:.2f}.{_before(results, results.rows_of(group, recipe)[-1])}"


def _ratio_of_times(results: Results, group: Group, recipe: Recipe) -> float:
    """Returns the processor time of a recipe, as a share of its baseline's."""
    return _mean_seconds(results.rows_of(group, recipe)) / _mean_seconds(results.rows_of(group, group.baseline))


def _mean_seconds(rows: Sequence[Mapping[str, Any]]) -> float:
    return statistics.mean(row["cpu_seconds"] for row in rows)


def _before(results: Results, row: Mapping[str, Any]) -> str:
    """Returns the scores of the weights that a fine-tuning began with, if the evaluation recipes have measured the same file."""
    measured = results.rows_of(EVALUATION, EVALUATION.baseline)
    files = row["settings"]["files"]
    if not measured or "$start" not in files or files["$start"] != measured[0]["settings"]["files"]["$checkpoint"]:
        return ""
    told = ", ".join(f"{score_of(measured[0], column):.4f} ({column})" for column in columns_of([row]))
    return f" Before the fine-tuning, the trained detector has {told}."


def _sign(difference: float) -> str:
    return "higher" if difference > 0 else "lower" if difference < 0 else "equal"


def _judged_by(results: Results, group: Group) -> str:
    columns = columns_of(results.rows_of(group, group.baseline))
    return ALL if ALL in columns else columns[0]


def _table(results: Results, group: Group) -> Table:
    """Returns the table of a group: its baseline and all recipes that were measured."""
    columns = columns_of(results.rows_of(group, group.baseline))
    lines = []
    for recipe in (group.baseline, *group.recipes):
        rows = results.rows_of(group, recipe)
        if rows:
            cells = {column: _score_cell(results, group, recipe, column) for column in columns}
            lines.append(
                {"recipe": recipe.name, "seeds": str(len(rows))}
                | cells
                | _costs(rows)
                | {"": _verdict(results, group, recipe)}
            )
    spreads = [f"{column} {spread:.4f}" for column in columns if (spread := results.spread(group, column)) is not None]
    notes = [f"range of the baseline over its seeds: {', '.join(spreads)}"] if spreads else []
    notes += group.notes
    return Table(group.title, list(lines[0]), [list(line.values()) for line in lines], notes).without_empty_columns()


def _score_cell(results: Results, group: Group, recipe: Recipe, column: str) -> str:
    mean = statistics.mean(score_of(row, column) for row in results.rows_of(group, recipe))
    difference = results.difference(group, recipe, column)
    is_baseline = recipe is group.baseline
    return f"{mean:.4f}" + ("" if is_baseline or difference is None else f" ({difference.mean:+.4f})")


def _costs(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    def mean(key: str) -> str:
        values = [row[key] for row in rows if key in row]
        return f"{statistics.mean(values):.0f}" if values else ""

    return {
        "image CPU ms": mean("image_cpu_ms"),
        "page CPU ms": mean("page_cpu_ms"),
        "command CPU s": mean("cpu_seconds"),
    }


def _verdict(results: Results, group: Group, recipe: Recipe) -> str:
    if recipe is group.baseline:
        return "baseline"
    found = results.difference(group, recipe, _judged_by(results, group))
    return found.verdict if found is not None and group.has_seeds else ""


def _curves(results: Results, group: Group) -> Table:
    """Returns the scores after each validation, one row for each point of the runs."""
    columns = columns_of(results.rows_of(group, group.baseline))
    rows = []
    for recipe in (group.baseline, *group.recipes):
        runs = results.rows_of(group, recipe)
        for points in zip(*(run["curve"] for run in runs), strict=True):
            cells = [
                f"{statistics.mean(values):.4f} [{min(values):.4f}-{max(values):.4f}]"
                for values in ([score_of(point, column) for point in points] for column in columns)
            ]
            seconds = statistics.mean(run["image_cpu_ms"] for run in runs) * points[0]["images"] / 1000
            rows.append([recipe.name, str(points[0]["images"]), f"{seconds:.0f}", *cells])
    return Table(f"{group.title}: curves", ["recipe", "images", "training CPU s", *columns], rows)


def _settings(results: Results, group: Group) -> list[str]:
    lines = [f"{group.title}, all: `{' '.join(group.common)}`"]
    for recipe in (group.baseline, *group.recipes):
        if results.rows_of(group, recipe):
            overrides = f" `{' '.join(recipe.overrides)}`" if recipe.overrides else ""
            lines.append(f"{recipe.name}: {recipe.why}{overrides}")
    return lines
