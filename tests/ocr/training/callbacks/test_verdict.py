import logging

import pytest

from ocr.training.callbacks.verdict import VerdictLog, training_verdict, validation_verdict


def training_epoch(waiting: float, targets: float = 0.0) -> dict[str, float]:
    return {"train_seconds": 10.0, "train_data_wait_seconds": 10 * waiting, "train_target_seconds": 10 * targets}


VALIDATION = {
    "val_seconds": 10.0,
    "val_forward_seconds": 6.0,
    "val_data_wait_seconds": 0.01,
    "val_device_postprocess_seconds": 0.5,
    "val_blocked_seconds": 2.5,
}


def test_an_epoch_that_waits_a_fifth_of_its_time_is_input_bound():
    assert training_verdict(training_epoch(0.19)) == "training is compute-bound: 19% of the time waiting for data"
    assert training_verdict(training_epoch(0.62, 0.21)) == (
        "training is input-bound: 62% of the time waiting for data (images 41%, targets 21%)"
    )


def test_stages_of_validation_are_listed_by_their_share():
    assert validation_verdict(VALIDATION) == (
        "validation time: forward 60%, waiting for post-processing and metric 25%, everything else 10%, "
        "post-processing on the device 5%"
    )


def test_verdicts_are_logged_when_they_change_when_input_bound_and_at_the_end(caplog: pytest.LogCaptureFixture):
    verdicts = VerdictLog()
    shares = (0.5, 0.4, 0.1, 0.1, 0.1, 0.1)
    with caplog.at_level(logging.INFO):
        for number, waiting in enumerate(shares, start=1):
            verdicts.log_epoch(training_epoch(waiting) | VALIDATION, is_last=number == len(shares))
    lines = [record.getMessage().partition(":")[0] for record in caplog.records]
    assert lines == [
        "training is input-bound",
        "validation time",
        "training is input-bound",
        "training is compute-bound",
        "training is compute-bound",
        "validation time",
    ]
    assert caplog.records[0].getMessage().endswith(", including start-up")


def test_targets_made_beside_a_busy_gpu_are_not_more_than_the_waiting():
    assert training_verdict(training_epoch(0.3, targets=0.4)) == (
        "training is input-bound: 30% of the time waiting for data (images 0%, targets 30%)"
    )
