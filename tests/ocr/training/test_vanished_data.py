"""Whole runs whose images vanish: they end with an error and keep their last checkpoint."""

from pathlib import Path

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import Callback

from ocr.command_line import compose_config
from ocr.config import EvaluateConfig
from ocr.errors import StorageError
from ocr.inference import evaluate
from ocr.training.fit import train


class RenameFolder(Callback):
    """Renames a folder when the second epoch begins."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if trainer.current_epoch == 1:
            self._folder.rename(self._folder.with_name("away"))


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_run_ends_and_keeps_its_checkpoint_when_its_images_vanish(split, tiny_run, copied_set, tmp_path):
    folder = copied_set / "images" / split
    waits = [f"datasets.{name}_dataset.config.unreadable_wait_seconds=0" for name in ("train", "val")]
    overrides = ["datasets.val_dataset.config.preload_images=false", "trainer.save_every_n_epochs=1", *waits]
    config = tiny_run(f"dataset_base_path={copied_set}", *overrides)
    with pytest.raises(StorageError, match=rf"^{folder}: .* cannot be read any more"):
        train(config, tmp_path / "run", [RenameFolder(folder)])
    kept = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=False)
    assert kept["global_step"] == 5  # the first epoch: 10 images in batches of 2


def test_images_that_cannot_be_read_are_not_scored(untrained_checkpoint, copied_set, tmp_path):
    overrides = ["split=val", "data=upstage", f"dataset_base_path={copied_set}", f"checkpoint={untrained_checkpoint}"]
    wait = "datasets.val_dataset.config.unreadable_wait_seconds=0"
    headers_only = "datasets.val_dataset.config.check_pixels=false"
    config = compose_config(EvaluateConfig, "evaluate", [*overrides, "device=cpu", wait, headers_only])
    for file in sorted((copied_set / "images/val").iterdir())[:2]:
        file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(StorageError, match=r"2 of 8 in this epoch"):
        evaluate(config, tmp_path / "scores")
    assert not (tmp_path / "scores/metrics.json").exists()
