"""All scalars of a step reach TensorBoard."""

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ocr.training.tensorboard import ScalarEvents


def test_scalars_are_read_back_by_name_and_step(tmp_path):
    logger = ScalarEvents(tmp_path, name="board", version="")
    logger.log_metrics({"train/loss": 0.25, "epoch": 1}, step=3)
    logger.log_metrics({"train/loss": torch.tensor(float("nan"))}, step=4)
    logger.save()
    events = EventAccumulator(str(tmp_path / "board")).Reload()
    assert sorted(events.Tags()["scalars"]) == ["epoch", "train/loss"]
    found = [(event.step, event.value) for event in events.Scalars("train/loss")]
    assert found == [(3, 0.25), (4, pytest.approx(float("nan"), nan_ok=True))]
    assert [(event.step, event.value) for event in events.Scalars("epoch")] == [(3, 1.0)]
