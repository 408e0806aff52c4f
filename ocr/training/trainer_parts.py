"""The parts of Lightning's trainer with this project's types, and values gathered from all ranks."""

from collections.abc import Iterable
from typing import Any

import lightning
import torch

from ocr.loaders.loader import BatchLoader
from ocr.training.module import DBNetModule


def dbnet_module(module: lightning.LightningModule) -> DBNetModule:
    """Returns the trainer's module."""
    if not isinstance(module, DBNetModule):
        raise TypeError(f"the trainer's module is a {type(module).__name__}; a DBNetModule is needed")
    return module


def train_loader(trainer: lightning.Trainer) -> BatchLoader:
    """Returns the trainer's training loader."""
    return _batch_loader(trainer.train_dataloader)


def val_loaders(trainer: lightning.Trainer) -> list[BatchLoader]:
    """Returns the trainer's validation loaders."""
    loaders = trainer.val_dataloaders
    return [_batch_loader(loader) for loader in (loaders if isinstance(loaders, list) else [loaders])]


def cache_bytes_by_tier(loaders: Iterable[BatchLoader]) -> dict[str, int]:
    """Returns the bytes that the caches of all loaders hold now, by tier: gpu, ram, disk."""
    num_bytes: dict[str, int] = {}
    for loader in loaders:
        for tier, count in loader.cache_bytes.items():
            num_bytes[tier] = num_bytes.get(tier, 0) + count
    return num_bytes


def gather_from_ranks(trainer: lightning.Trainer, value: Any) -> list[Any]:
    """Returns the value of each rank."""
    if trainer.world_size == 1:
        return [value]
    values: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(values, value)
    return values


def sum_over_ranks(trainer: lightning.Trainer, counts: list[int]) -> list[int]:
    """Returns the element-wise sum of the lists of all ranks."""
    return [sum(column) for column in zip(*gather_from_ranks(trainer, counts), strict=True)]


def log_scalars(trainer: lightning.Trainer, scalars: dict[str, float]) -> None:
    """Passes scalars to the trainer's loggers."""
    for logger in trainer.loggers:
        logger.log_metrics(scalars, step=trainer.global_step)


def _batch_loader(loader: Any) -> BatchLoader:
    if not isinstance(loader, BatchLoader):
        raise TypeError(f"the trainer's loader is a {type(loader).__name__}; a BatchLoader is needed")
    return loader
