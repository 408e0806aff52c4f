"""The learning rates that a run logs."""

import csv

import pytest

from ocr.training.fit import train
from ocr.training.optimizer import learning_rate_factor


def test_rates_are_logged_once_a_step_while_gradients_accumulate(tiny_run, tmp_path):
    every_second = ("trainer.accumulate_grad_batches=2", "trainer.log_every_n_steps=2", "dataloader.batch_size=1")
    config = tiny_run(*every_second, "trainer.max_epochs=1", "optimizer.warmup_fraction=0.4")
    train(config, tmp_path)
    with (tmp_path / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    steps = [int(row["step"]) for row in rows if row["lr-AdamW/pg1"]]
    assert len(steps) > 1
    assert steps == list(range(1, 2 * len(steps), 2))
    # The schedule goes on with each of the 5 steps of the optimizer, not with batches or epochs.
    expected = [config.optimizer.lr * learning_rate_factor(step, 5, config.optimizer) for step in steps]
    assert [float(row["lr-AdamW/pg1"]) for row in rows if row["lr-AdamW/pg1"]] == pytest.approx(expected)
