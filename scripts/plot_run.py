"""Plots loss and scores of a run, or of runs that continued each other: uv run scripts/plot_run.py RUN/summary.json... curve.png"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

Epochs = Sequence[dict[str, Any]]
"""The list `epochs` of a summary.json."""
STYLES = {"hmean": ("o-", "IoU 0.5"), "hmean_iou0.7": ("s--", "IoU 0.7")}


def main(summary_files: Sequence[Path], picture: Path) -> None:
    """Writes the picture of runs that continued each other.

    Raises:
        SystemExit: a file is not the summary of a run, or the picture has another format.
    """
    figure = draw([_epochs_of(file) for file in summary_files])
    formats = figure.canvas.get_supported_filetypes()
    if picture.suffix.removeprefix(".").lower() not in formats:
        raise SystemExit(f"{picture}: expected a picture as the last file, such as curve.png ({', '.join(formats)})")
    figure.savefig(picture, dpi=100)


def _epochs_of(file: Path) -> Epochs:
    try:
        summary = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise SystemExit(f"{file}: not the summary.json of a run: {error}") from error
    if not isinstance(summary, dict) or "epochs" not in summary:
        raise SystemExit(f"{file}: not the summary.json of a run: it has no epochs")
    epochs: Epochs = summary["epochs"]
    return epochs


def draw(runs: Sequence[Epochs]) -> Figure:
    """Returns the training loss of every epoch, and hmean of the validated ones for each validation set."""
    figure = Figure(figsize=(8, 6), layout="constrained")
    score_axis, loss_axis = figure.subplots(2, 1, height_ratios=(2, 1), sharex=True)
    names = list(dict.fromkeys(name for epochs in runs for name in _set_names(epochs)))
    first = 1
    for epochs in runs:
        if first > 1:
            for axis in (score_axis, loss_axis):
                axis.axvline(first - 0.5, color="0.8", linewidth=1)
        numbers = range(first, first + len(epochs))
        loss_axis.plot(numbers, [epoch["train_loss"] for epoch in epochs], color="0.4")
        for name in _set_names(epochs):
            _draw_scores(score_axis, numbers, epochs, name, f"C{names.index(name)}")
        first += len(epochs)
    score_axis.set(ylabel="validation hmean", ylim=(0, 1))
    handles, labels = score_axis.get_legend_handles_labels()
    by_label = dict(zip(labels, handles, strict=True))  # each run has lines of its own
    score_axis.legend(by_label.values(), by_label.keys(), loc="lower right", fontsize="small")
    loss_axis.set(xlabel="epoch", ylabel="training loss", ylim=(0, None))
    return figure


def _draw_scores(axis: Axes, numbers: Sequence[int], epochs: Epochs, name: str, colour: str) -> None:
    """Draws the scores of a set in one run. The first versions of summary.json have no `hmean_iou0.7`."""
    validated = [
        (number, epoch["sets"][name] if name else epoch)
        for number, epoch in zip(numbers, epochs, strict=True)
        if "hmean" in epoch
    ]
    for key, (style, label) in STYLES.items():
        points = [(number, scores[key]) for number, scores in validated if key in scores]
        if points:
            axis.plot(*zip(*points, strict=True), style, color=colour, label=f"{name} {label}".strip(), markersize=4)
            axis.annotate(
                f"{points[-1][1]:.3f}", points[-1], (-2, 5), textcoords="offset points", ha="right", fontsize="small"
            )


def _set_names(epochs: Epochs) -> list[str]:
    """Returns the names of the validation sets, or one empty name for a run with a single set."""
    return list(next((epoch["sets"] for epoch in epochs if "sets" in epoch), [""]))


if __name__ == "__main__":
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    main([Path(name) for name in sys.argv[1:-1]], Path(sys.argv[-1]))
