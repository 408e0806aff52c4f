"""The loaders that the data module gives Lightning."""

import lightning

from ocr.loaders.config import DataLoaderConfig
from ocr.training.datamodule import DBNetDataModule
from tests.ocr.loaders.batches import uncached_dataset


def cpu_trainer() -> lightning.Trainer:
    return lightning.Trainer(
        max_epochs=7, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )


def test_the_training_loader_expects_the_epochs_of_the_run_and_the_validation_none(drawn):
    dataset = uncached_dataset(drawn, training=True)
    data = DBNetDataModule(dataset, uncached_dataset(drawn, training=False), DataLoaderConfig(), loader="dali")
    data.trainer = cpu_trainer()
    assert data.train_dataloader().num_epochs == 7
    assert data.val_dataloader().num_epochs == 0
    data.teardown("fit")


def test_ranks_whose_devices_differ_in_memory_validate_equally_many_batches(drawn, monkeypatch):
    """Each rank chooses the batch size of evaluation by its own device."""
    monkeypatch.setattr("ocr.training.datamodule.gather_from_ranks", lambda trainer, own: [own, 1])
    data = DBNetDataModule(None, uncached_dataset(drawn, training=False), DataLoaderConfig(), loader="dali")
    data.trainer = cpu_trainer()
    data.setup("validate")
    assert data.val_dataloader().batch_size == 1
    data.teardown("validate")
