"""The predictions of the last epoch."""

import pytest

from ocr.training.callbacks import last_epoch
from ocr.training.fit import train


@pytest.mark.parametrize("num_epochs", [1, 2])
def test_the_predictions_of_a_run_are_written_once(tiny_run, tmp_path, monkeypatch, num_epochs):
    written = []

    def write(path, manifest, detections):
        written.append(path)
        write_predictions(path, manifest, detections)

    write_predictions = last_epoch.write_predictions
    monkeypatch.setattr(last_epoch, "write_predictions", write)
    train(tiny_run(f"trainer.max_epochs={num_epochs}", "trainer.limit_train_batches=1"), tmp_path)
    assert written == [tmp_path / "predictions.json"]
    assert written[0].is_file()
