"""Mixed precision trains to the hmean of full precision"""

from collections import defaultdict
from statistics import mean

import pytest

from ocr.training.fit import train

pytestmark = pytest.mark.gpu

MIN_FULL_PRECISION = 0.5
"""Mean hmean in full precision; below it there is nothing to compare."""
MAX_DIFFERENCE = 0.005
"""Difference between the mean hmeans of mixed and full precision."""


def test_precisions_train_to_the_same_hmean(training_config, on_cpu, tmp_path, record):
    precisions, seeds = (
        (("32-true", "bf16-mixed"), (42,)) if on_cpu else (("32-true", "16-mixed", "bf16-mixed"), (1, 2, 3))
    )
    hmeans: dict[str, list[float]] = defaultdict(list)
    for seed in seeds:  # the precisions take turns, so that a run that is cut short has figures for each
        for precision in precisions:
            config = training_config(
                f"trainer.precision={precision}",
                f"seed={seed}",
                "trainer.val_loss=false",
                "trainer.check_val_every_n_epoch=1000",
                "logger.tensorboard=false",
            )
            summary = train(config, tmp_path / f"{precision}_{seed}")
            hmeans[precision].append(summary["hmean"])
            record(f"{precision}, seed {seed}: hmean", summary["hmean"])
            record(f"{precision}, seed {seed}: training", sum(e["train_seconds"] for e in summary["epochs"]), "s")
    if on_cpu:
        return  # one seed and seconds of training show only that both run
    full = mean(hmeans.pop("32-true"))
    record("32-true: mean hmean", full, at_least=MIN_FULL_PRECISION)
    for precision, values in hmeans.items():
        record(f"{precision}: difference of mean hmean", abs(mean(values) - full), at_most=MAX_DIFFERENCE)
