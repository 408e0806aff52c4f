"""Plots loss and scores of a run: uv run scripts/plot_run.py outputs/.../summary.json curve.png"""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt


def main(summary_file: Path, picture: Path) -> None:
    """Plots the training loss of every epoch and hmean of the validated ones."""
    epochs = json.loads(summary_file.read_text())["epochs"]
    validated = [epoch for epoch in epochs if "hmean" in epoch]
    figure, loss_axis = plt.subplots(figsize=(8, 4.5), layout="constrained")
    loss_axis.plot([epoch["epoch"] + 1 for epoch in epochs], [epoch["train_loss"] for epoch in epochs], color="0.6")
    loss_axis.set(xlabel="epoch", ylabel="training loss, mean of the epoch", ylim=(0, None))
    score_axis = loss_axis.twinx()
    numbers = [epoch["epoch"] + 1 for epoch in validated]
    scores = {"hmean": "hmean, IoU 0.5", "hmean_iou0.7": "hmean, IoU 0.7"}
    for (key, label), style in zip(scores.items(), ("o-", "s--"), strict=True):
        score_axis.plot(numbers, [epoch[key] for epoch in validated], style, label=label)
        score_axis.annotate(
            f"{validated[-1][key]:.3f}",
            (numbers[-1], validated[-1][key]),
            (-4, 6),
            textcoords="offset points",
            ha="right",
        )
    score_axis.set(ylabel="validation hmean", ylim=(0, 1))
    score_axis.legend(loc="center right")
    figure.savefig(picture, dpi=100)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
