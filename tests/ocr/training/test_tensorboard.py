"""All scalars of a step reach TensorBoard."""

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ocr.errors import StorageError
from ocr.training.tensorboard import ScalarEvents
from tests.full_disk import largest_file


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


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_full_disk_is_named_with_the_folder_of_the_events(tmp_path):
    logger = ScalarEvents(tmp_path, name="board", version="")
    place = f"^{tmp_path}/board/events: cannot be written: File too large"
    with largest_file(1000), pytest.raises(StorageError, match=place):
        _log_much(logger)


def _log_much(logger: ScalarEvents) -> None:
    for step in range(1000):
        logger.log_metrics({"train/loss": 0.25}, step=step)
    logger.finalize("success")
