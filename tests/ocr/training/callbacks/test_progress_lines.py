import logging

from ocr.training.callbacks.progress_lines import ProgressLines
from ocr.training.fit import train


def test_without_a_terminal_lines_say_how_far_an_epoch_is(tiny_run, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    config = tiny_run("trainer.max_epochs=1", "trainer.limit_train_batches=2", "loader=torch")
    train(config, tmp_path / "run", [ProgressLines(seconds=0)])
    lines = [record.message for record in caplog.records if record.name.endswith("progress_lines")]
    assert lines == ["epoch 1/1: training, batch 1 of 2", "validation, batch 1 of 2"]
