"""Times validation epochs beside their bare forward pass."""

import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import lightning
import torch

from benchmarks.report import Table
from ocr.command_line import compose_config
from ocr.config import TrainConfig
from ocr.machine import resident_set
from ocr.training.fit import train

NUM_IMAGES = 404
COLUMNS = {
    "data wait": "val_data_wait_seconds",
    "forward": "val_forward_seconds",
    "levels": "val_device_postprocess_seconds",
    "polygons": "val_postprocess_seconds",
    "metric": "val_metric_seconds",
    "blocked": "val_blocked_seconds",
    "total": "val_seconds",
}
"""Column of the table and key of the run's summary."""


class BareForward(lightning.Callback):
    """Times the forward pass alone over the tensors that the validation has just used."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        loader = trainer.val_dataloaders
        images = [batch.images for batch in loader]  # type: ignore[union-attr]  # views, where they are cached
        _synchronize(pl_module.device)
        started = time.perf_counter()
        with torch.inference_mode(), trainer.precision_plugin.forward_context():
            for batch in images:
                pl_module(batch)
        _synchronize(pl_module.device)
        self.seconds.append(time.perf_counter() - started)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class ResidentSet(lightning.Callback):
    """Records the RAM of this process after each epoch."""

    def __init__(self) -> None:
        self.num_bytes: list[int] = []

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.num_bytes.append(resident_set())


def time_validation(overrides: Sequence[str]) -> dict[str, Any]:
    """Returns the epochs of a run that trains one batch per epoch and validates 404 drawn images.

    Args:
        overrides: as for scripts/train.py.

    Returns:
        `epochs` as in summary.json; `bare_forward_seconds` and `resident_set_bytes`, one value per epoch; `settings`.
    """
    settings = [
        f"synthetic.num_val={NUM_IMAGES}",
        "synthetic.num_train=8",
        "dataset_base_path=outputs/benchmark_validation",
        "trainer.devices=1",
        "trainer.max_epochs=3",
        "trainer.limit_train_batches=1",
        "trainer.check_val_every_n_epoch=1",
        "logger.num_pictures=0",
        *overrides,
    ]
    config = compose_config(TrainConfig, "train", settings)
    bare, memory = BareForward(), ResidentSet()
    with tempfile.TemporaryDirectory() as run_dir:
        summary = train(config, Path(run_dir), callbacks=[bare, memory])
    return {
        "settings": settings,
        "epochs": summary["epochs"],
        "bare_forward_seconds": bare.seconds,
        "resident_set_bytes": memory.num_bytes,
    }


def speed_table(results: Mapping[str, Any]) -> Table:
    """Returns one line per epoch. `results` holds those of `time_validation` and `provenance`."""
    epochs, bare = results["epochs"], results["bare_forward_seconds"]
    rows = [
        [
            str(epoch["epoch"]),
            *(f"{epoch[key]:.3f}" for key in COLUMNS.values()),
            f"{alone:.3f}",
            f"{epoch['val_seconds'] / alone:.3f}",
            f"{memory / 1e6:,.0f} MB",
        ]
        for epoch, alone, memory in zip(epochs, bare, results["resident_set_bytes"], strict=True)
    ]
    notes = []
    if later := epochs[1:]:
        waiting = max(epoch["val_data_wait_seconds"] for epoch in later) / epochs[0]["val_data_wait_seconds"]
        ratio = median(epoch["val_seconds"] / alone for epoch, alone in zip(later, bare[1:], strict=True))
        notes = [
            f"from epoch 1: data wait at most {waiting:.2%} of epoch 0's; total / bare forward {ratio:.3f} (median)"
        ]
    columns = ("epoch", *COLUMNS, "bare", "total / bare", "RAM")
    return Table(f"Validation epochs on {results['device']}: seconds", columns, rows, notes)
