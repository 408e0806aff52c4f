"""The learning rates that a run logs."""

import csv

from ocr.training.fit import train


def test_rates_are_logged_once_a_step_while_gradients_accumulate(tiny_run, tmp_path):
    every_second = ("trainer.accumulate_grad_batches=2", "trainer.log_every_n_steps=2", "dataloader.batch_size=1")
    train(tiny_run(*every_second, "trainer.max_epochs=1"), tmp_path)
    with (tmp_path / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    steps = [int(row["step"]) for row in rows if row["lr-AdamW/pg1"]]
    assert len(steps) > 1
    assert steps == list(range(1, 2 * len(steps), 2))
