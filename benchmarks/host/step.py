"""The CPU time that Lightning, its callbacks and its loggers take of a training step.

The run of scripts/train.py with its callbacks and loggers, but with a network of one small convolution and a loader that hands out
one prepared batch. After each of Lightning's steps the loader itself runs a bare step of an equal network:
forward pass, loss, backward pass, clipping, optimizer. The difference of the two, by the CPU time of the main thread, is what
Lightning and the hooks cost. The end of an epoch, with its checkpoints, does not count.
"""

import contextlib
import copy
import logging
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.host.workloads import Workload
from ocr.config import TrainConfig
from ocr.datasets.base import ValidatedOCRDataset
from ocr.datasets.plan import EpochPlan, SamplePlanner
from ocr.datasets.schemas import DatasetConfig
from ocr.loaders.batch import Batch
from ocr.loaders.engines import Engine
from ocr.loaders.loader import BatchLoader
from ocr.losses.db_loss import DBLoss
from ocr.models.db_head import DBMaps
from ocr.targets.maps import make_targets
from ocr.training import fit
from ocr.training.datamodule import DBNetDataModule
from ocr.training.optimizer import build_optimizer

LIMIT_MS = 0.6
"""Largest CPU time of a step without the network, milliseconds."""
NUM_STEPS = 200
"""Steps of an epoch; the first epoch warms up."""
INPUT_SIZE = 32


@dataclass(frozen=True)
class StepTimes:
    """The main thread's CPU time of a training step, in milliseconds; one value for each epoch."""

    batch_size: int
    lightning: list[float]
    """A step of Lightning."""
    bare: list[float]
    """Network, loss and optimizer alone."""

    @property
    def hooks(self) -> list[float]:
        """Times that Lightning and the hooks add to a bare step."""
        return [whole - bare for whole, bare in zip(self.lightning, self.bare, strict=True)]

    @property
    def hooks_ms(self) -> float:
        """Median of `hooks`."""
        return median(self.hooks)


def time_step(workload: Workload, batch_size: int, repeats: int) -> StepTimes:
    """Returns the CPU time of Lightning's step and of a bare one."""
    config = TrainConfig.model_validate(
        {
            "device": "cpu",
            "datasets": {f"{split}_dataset": {"config": {"image_path": "unread"}} for split in ("train", "val")},
            "pipeline": {"image_size": INPUT_SIZE},
            "dataloader": {"batch_size": batch_size},
            # The timed loader ends the run at the start of one more epoch, so that nothing is validated.
            "trainer": {"max_epochs": repeats + 2, "precision": "32-true", "limit_val_batches": 0},
        }
    )
    planner = SamplePlanner(config.pipeline, training=True, seed=0)
    dataset = ValidatedOCRDataset(DatasetConfig(image_path="unread"), planner, config.targets, workload.manifest)
    network = _Network()
    bare_step = _bare_step(copy.deepcopy(network), config, _prepared_batch(dataset, batch_size))
    loader = _TimedLoader(dataset, batch_size, bare_step, num_epochs=repeats + 1)
    replaced: dict[str, Any] = {
        "initial_network": lambda *_: network,
        "build_dataset": lambda *_, **__: dataset,
        "DBNetDataModule": partial(_Data, loader),
    }
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.multiple(fit, **replaced),
        warnings.catch_warnings(),
        _errors_only(logging.getLogger("ocr")),
        contextlib.suppress(_AllTimed),
    ):
        warnings.simplefilter("ignore")
        fit.train(config, Path(folder))
    return StepTimes(batch_size, loader.lightning[1:], loader.bare[1:])


@contextlib.contextmanager
def _errors_only(logger: logging.Logger) -> Iterator[None]:
    """Silences a logger below errors: the run's data set is no user's, and trains and validates on the same images."""
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


class _AllTimed(Exception):
    """Ends the run."""


class _Network(nn.Module):
    """One convolution that gives both maps."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 2, 3, padding=1)

    def forward(self, images: Tensor) -> DBMaps:
        logits, thresholds = self.convolution(images).unbind(dim=1)
        return DBMaps(logits, torch.sigmoid(thresholds))


def _bare_step(network: nn.Module, config: TrainConfig, batch: Batch) -> Callable[[], None]:
    loss = DBLoss(config.loss)
    optimizer = build_optimizer(network, config.optimizer)
    clip_norm = config.trainer.gradient_clip_val or float("inf")

    def step() -> None:
        losses = loss(network(batch.images.contiguous(memory_format=torch.channels_last)), batch.targets)
        optimizer.zero_grad()
        losses.total.backward()
        nn.utils.clip_grad_norm_(network.parameters(), clip_norm)
        optimizer.step()

    return step


def _prepared_batch(dataset: ValidatedOCRDataset, batch_size: int) -> Batch:
    planner, manifest = dataset.planner, dataset.manifest
    samples = EpochPlan(manifest, planner, epoch=0, batch_size=batch_size).batch(0)
    size = (planner.input_size, planner.input_size)
    targets = make_targets(planner.input_polygons(manifest, samples), size, dataset.targets)
    images = torch.from_numpy(np.random.default_rng(0).normal(size=(batch_size, 3, *size)).astype(np.float32))
    return Batch(images, samples, targets, dataset)


class _TimedLoader(BatchLoader):
    """Hands out one prepared batch. Times Lightning's step, and a bare one after each."""

    def __init__(
        self, dataset: ValidatedOCRDataset, batch_size: int, bare_step: Callable[[], None], num_epochs: int
    ) -> None:
        super().__init__(dataset, Engine("dali", torch.device("cpu")), batch_size)
        self.lightning: list[float] = []
        self.bare: list[float] = []
        self._bare_step = bare_step
        self._num_epochs = num_epochs

    def __len__(self) -> int:
        return NUM_STEPS

    def __iter__(self) -> Iterator[Batch]:
        if len(self.bare) == self._num_epochs:
            raise _AllTimed
        batch = _prepared_batch(self.dataset, self.batch_size)
        lightning = bare = 0.0
        for step in range(NUM_STEPS):
            started = time.thread_time()
            self._bare_step()
            between = time.thread_time()
            bare += between - started
            if step == NUM_STEPS - 1:  # Lightning does not come back after the last batch
                self.lightning.append(1000 * lightning / (NUM_STEPS - 1))
                self.bare.append(1000 * bare / NUM_STEPS)
            yield batch
            lightning += time.thread_time() - between


class _Data(DBNetDataModule):
    """Gives the trainer the timed loader."""

    def __init__(self, timed: BatchLoader, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._timed = timed

    def train_dataloader(self) -> BatchLoader:
        return self._timed
