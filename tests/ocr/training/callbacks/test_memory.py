"""The watch on memory: it warns of little RAM once a run, on the first rank of a machine."""

import lightning
import pytest
from lightning.pytorch.strategies import SingleDeviceStrategy

from ocr.training.callbacks import memory
from ocr.training.callbacks.memory import MemoryWatch


@pytest.mark.parametrize(
    ("local_rank", "free", "num_warnings"), [(0, 1_900_000_000, 1), (0, 20_000_000_000, 0), (1, 1_900_000_000, 0)]
)
def test_little_ram_is_told_once(local_rank, free, num_warnings, monkeypatch, caplog):
    monkeypatch.setattr(memory, "free_ram", lambda: free)
    monkeypatch.setattr(memory, "total_ram", lambda: 25_000_000_000)
    device = SingleDeviceStrategy("cpu")
    device.local_rank = local_rank
    trainer, watch = lightning.Trainer(strategy=device, logger=False), MemoryWatch({})
    for _ in range(3):
        watch.on_validation_end(trainer, lightning.LightningModule())
    assert caplog.text.count("only 1.9 of 25.0 GB of RAM is free; lower cache_config.ram_budget") == num_warnings
