"""The loaders that the data module gives Lightning."""

import lightning

from ocr.loaders.config import DataLoaderConfig
from ocr.training.datamodule import DBNetDataModule
from tests.ocr.loaders.batches import uncached_dataset


def test_the_training_loader_expects_the_epochs_of_the_run_and_the_validation_none(drawn):
    dataset = uncached_dataset(drawn, training=True)
    data = DBNetDataModule(dataset, uncached_dataset(drawn, training=False), DataLoaderConfig(), loader="dali")
    data.trainer = lightning.Trainer(
        max_epochs=7, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    assert data.train_dataloader().num_epochs == 7
    assert data.val_dataloader().num_epochs == 0
    data.teardown("fit")
