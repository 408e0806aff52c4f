"""Early stopping of a resumed run."""

import logging

import lightning

from ocr.training.callbacks.early_stopping import StopWithoutProgress


def test_a_run_that_goes_on_after_an_early_stop_does_not_report_it_again(caplog):
    caplog.set_level(logging.INFO)
    trainer = lightning.Trainer(accelerator="cpu", logger=False)
    stopped = StopWithoutProgress(patience=2, min_delta=0.0)
    stopped.stopped_epoch, stopped.wait_count = 5, 2
    stopped.on_train_end(trainer, lightning.LightningModule())
    assert "stopped early, after epoch 6" in caplog.text
    caplog.clear()
    longer = StopWithoutProgress(patience=10, min_delta=0.0)
    longer.load_state_dict(stopped.state_dict())
    longer.on_train_end(trainer, lightning.LightningModule())
    assert caplog.text == ""
    assert longer.wait_count == 2
    assert longer.patience == 10
