"""When a run ends early, and what a resumed run makes of it."""

import logging

import lightning
import pytest
import torch

from ocr.training.callbacks.early_stopping import StopWithoutProgress


class Scored(lightning.LightningModule):
    """Has the given val/hmean, epoch after epoch."""

    def __init__(self, scores: tuple[float, ...]) -> None:
        super().__init__()
        self.scores = scores
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch, batch_idx):
        return 0 * self.weight

    def validation_step(self, batch, batch_idx):
        self.log("val/hmean", self.scores[self.current_epoch])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize(
    ("patience", "min_delta", "scores", "num_epochs"),
    [
        (1, 0.0, (0.1, 0.2, 0.3, 0.31), 4),
        (1, 0.0, (0.3, 0.2, 0.4, 0.5), 2),
        (2, 0.0, (0.3, 0.2, 0.4, 0.35, 0.4, 0.5), 5),
        (1, 0.05, (0.1, 0.2, 0.24, 0.5), 3),
    ],
    ids=["rises", "falls", "falls for longer", "rises too little"],
)
def test_a_run_ends_after_patience_validations_without_a_better_score(patience, min_delta, scores, num_epochs):
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=len(scores),
        callbacks=[StopWithoutProgress(patience, min_delta)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    batches = torch.utils.data.DataLoader(torch.zeros(1, 1))
    trainer.fit(Scored(scores), batches, batches)
    assert trainer.current_epoch == num_epochs


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
