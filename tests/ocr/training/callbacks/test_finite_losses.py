"""A run whose loss or weights are NaN or infinite ends in words, and its last good checkpoint stays."""

import re

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from ocr.checkpoint import load_checkpoint
from ocr.errors import DivergedError
from ocr.training.fit import train


class Poison(Callback):
    """Sets a weight to a value before a step, counted from 0, or after it."""

    def __init__(self, step: int, value: float, after: bool = False) -> None:
        self.step, self.value, self.after = step, value, after
        self.num_steps = 0

    def poison(self, module) -> None:
        with torch.no_grad():
            next(module.parameters()).fill_(self.value)

    def on_train_batch_start(self, trainer, pl_module, *args) -> None:
        if trainer.global_step == self.step and not self.after:
            self.poison(pl_module)

    def on_train_batch_end(self, trainer, pl_module, *args) -> None:
        self.num_steps = trainer.global_step
        if trainer.global_step == self.step + 1 and self.after:
            self.poison(pl_module)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_last_checkpoint(tiny_run, tmp_path, value):
    config = tiny_run("trainer.max_epochs=3", "trainer.log_every_n_steps=2", "dataloader.batch_size=2")
    poison = Poison(step=6, value=value)  # the second of the five steps of epoch 2
    with pytest.raises(DivergedError) as caught:
        train(config, tmp_path, callbacks=[poison])
    message = str(caught.value)
    assert re.match(
        r"step 7 \(epoch 2\): the loss is not finite: total (nan|inf|-inf), .*; learning rate 0\.000\d+", message
    )
    assert len(re.findall(r"train_\d+\.jpg", message)) == 2
    assert f"Last good checkpoint: {tmp_path}/checkpoints/last.ckpt" in message
    assert (
        "try a lower optimizer.lr or a trainer.gradient_clip_val below 5." in message
    )  # the precision is 32-true already
    assert poison.num_steps <= 7 + 2
    load_checkpoint(tmp_path / "checkpoints/last.ckpt")
    assert torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 5


def test_weights_that_are_not_finite_are_never_saved(tiny_run, tmp_path):
    config = tiny_run("trainer.max_epochs=1", "trainer.log_every_n_steps=50")
    num_steps = 10 // config.dataloader.batch_size + (10 % config.dataloader.batch_size > 0)
    with pytest.raises(DivergedError, match=r"weights hold NaN or infinity, first .*There is no checkpoint yet"):
        train(config, tmp_path, callbacks=[Poison(step=num_steps - 1, value=float("nan"), after=True)])
    assert not list(tmp_path.rglob("*.ckpt"))


def test_a_learning_rate_that_is_far_too_large_ends_the_run(tiny_run, tmp_path):
    config = tiny_run("trainer.max_epochs=4", "optimizer.lr=1e30", "optimizer.name=sgd")
    with pytest.raises(DivergedError, match=r"learning rate \d.*optimizer\.lr"):
        train(config, tmp_path)
