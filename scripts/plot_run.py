"""Plots loss and scores of a run, or of runs that continued each other: uv run scripts/plot_run.py RUN/summary.json... curve.png"""

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

STYLES = {"hmean": ("o-", "IoU 0.5"), "hmean_iou0.7": ("s--", "IoU 0.7")}


def main(summary_files: Sequence[Path], picture: Path) -> None:
    """Plots the training loss of every epoch, and hmean of the validated ones for each validation set."""
    figure, (score_axis, loss_axis) = plt.subplots(
        2, 1, figsize=(8, 6), height_ratios=(2, 1), sharex=True, layout="constrained"
    )
    first = 1
    for summary_file in summary_files:
        epochs = json.loads(summary_file.read_text())["epochs"]
        if first > 1:
            for axis in (score_axis, loss_axis):
                axis.axvline(first - 0.5, color="0.8", linewidth=1)
        numbers = [first + i for i in range(len(epochs))]
        loss_axis.plot(numbers, [epoch["train_loss"] for epoch in epochs], color="0.4")
        validated = [(number, epoch) for number, epoch in zip(numbers, epochs, strict=True) if "hmean" in epoch]
        is_last = summary_file == summary_files[-1]
        for i, name in enumerate(_set_names(epochs)):
            for key, (style, label) in STYLES.items():
                scores = [_scores(epoch, name).get(key, math.nan) for _, epoch in validated]
                shown = [number for number, _ in validated]
                text = f"{name} {label}".strip() if is_last else None
                score_axis.plot(shown, scores, style, color=f"C{i}", label=text, markersize=4)
                place = {"textcoords": "offset points", "ha": "right", "fontsize": "small"}
                score_axis.annotate(f"{scores[-1]:.3f}", (shown[-1], scores[-1]), (-2, 5), **place)
        first = numbers[-1] + 1
    score_axis.set(ylabel="validation hmean", ylim=(0, 1))
    score_axis.legend(loc="lower right", fontsize="small")
    loss_axis.set(xlabel="epoch", ylabel="training loss", ylim=(0, None))
    figure.savefig(picture, dpi=100)


def _set_names(epochs: list[dict[str, Any]]) -> list[str]:
    """Returns the names of the validation sets, or one empty name for a run with a single set."""
    return list(next((epoch["sets"] for epoch in epochs if "sets" in epoch), [""]))


def _scores(epoch: dict[str, Any], name: str) -> dict[str, float]:
    """Returns the scores of a set in a validated epoch. The first versions of summary.json have no `hmean_iou0.7` of a set."""
    scores: dict[str, float] = epoch["sets"][name] if name else epoch
    return scores


if __name__ == "__main__":
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    main([Path(name) for name in sys.argv[1:-1]], Path(sys.argv[-1]))
