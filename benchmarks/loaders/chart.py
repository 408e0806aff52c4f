"""results.png: bars of images/s with their spread, one plot per level."""

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.loaders.config import WITH_NETWORK, Level
from benchmarks.loaders.results import Measurement, Results, short
from benchmarks.loaders.rows import ROWS

OURS, RIVALS, LIMIT = "#2a6f97", "#b08d57", "#9a9a9a"


def draw(results: Results, titles: Mapping[Level, str], path: Path) -> None:
    """Draws the levels that were measured, and names the rows that could not run.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    import matplotlib  # here: it comes with the extra

    matplotlib.use("Agg")
    from matplotlib import pyplot

    drawn = {level: rows for level in results.levels if (rows := _fastest_first(results, level))}
    if not drawn:
        return
    heights = [len(rows) + 2.2 for rows in drawn.values()]
    figure, axes = pyplot.subplots(
        len(drawn),
        1,
        figsize=(10, 0.34 * sum(heights) + 1),
        height_ratios=heights,
        squeeze=False,
        layout="constrained",
    )
    for axis, (level, rows) in zip(axes[:, 0], drawn.items(), strict=True):
        _draw_bars(axis, rows)
        axis.set_title(titles[level], loc="left", fontsize=9, fontweight="bold")
        if reasons := [name for name, row in results.levels[level].items() if row.reason]:
            names = textwrap.fill("not measured: " + ", ".join(reasons) + " (why: results.md)", 150)
            axis.set_xlabel(names, fontsize=7, loc="left", color="#555555")
    environment = results.environment
    figure.suptitle(
        f"{environment['device']}, {environment['cores']} cores: images/s, median and spread\n"
        "blue: this project; brown: rivals; grey: a replayed batch",
        fontsize=10,
    )
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _fastest_first(results: Results, level: Level) -> dict[str, Measurement]:
    """Returns the rows to draw. Without a network, a replayed batch takes no time, and its bar would dwarf the others."""
    rows = {name: row for name, row in results.rows_at(level).items() if name != "replay" or level in WITH_NETWORK}
    return dict(sorted(rows.items(), key=lambda item: -item[1].rate))


def _draw_bars(axis: Any, rows: Mapping[str, Measurement]) -> None:
    ours = {row.name for row in ROWS if row.is_ours}
    spreads = {name: spread for name, row in rows.items() if (spread := row.images_per_second)}
    # Bars of rows that replay kept tensors would dwarf the others: they end at the edge, with an arrow.
    ordinary = [spread.most for name, spread in spreads.items() if not name.endswith("_tensors")]
    most = max(ordinary or [spread.most for spread in spreads.values()])
    edge = 1.1 * most
    for place, (name, spread) in enumerate(spreads.items()):
        colour = LIMIT if name == "replay" else OURS if name in ours else RIVALS
        text = short(spread.median)
        if spread.median > edge:
            axis.barh(place, edge, color=colour, height=0.72)
            axis.text(0.99 * edge, place, f"{text} \u2192", va="center", ha="right", fontsize=8, color="w")
            continue
        error = [[spread.median - spread.least], [spread.most - spread.median]]
        caps = {"elinewidth": 1, "capsize": 2}
        axis.barh(place, spread.median, xerr=error, color=colour, height=0.72, error_kw=caps)
        axis.text(spread.most + 0.01 * most, place, text, va="center", fontsize=8)
    axis.set_yticks(range(len(spreads)), list(spreads))
    axis.invert_yaxis()
    axis.set_xlim(0, edge)
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
