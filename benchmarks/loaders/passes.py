"""The work of an epoch at each level, which the worker times."""

from collections.abc import Callable, Iterator
from typing import Protocol

import torch

from benchmarks.loaders.config import Level
from benchmarks.loaders.row_loader import InputBatch, RowLoader
from benchmarks.loaders.workload import Workload
from ocr.device import AUTOCAST, resolve_precision
from ocr.device_stages import DeviceStages
from ocr.losses.db_loss import DBLoss
from ocr.models.dbnet import DBNet, build_dbnet
from ocr.postprocess.levels import to_levels
from ocr.targets.maps import make_targets
from ocr.training.evaluation import OverlappedEvaluation
from ocr.training.network import EvaluationForward, forward_maps, prepare_network
from ocr.training.optimizer import build_optimizer


class Pass(Protocol):
    """Runs one epoch at a time."""

    def batches(self) -> Iterator[int]:
        """Runs an epoch; yields the number of images of each batch once its work is done, or queued on the device."""

    def finish(self) -> dict[str, float]:
        """Ends the epoch and returns seconds by stage where they are known: forward, postprocess (summed over its threads),
        blocked (forward pass waiting for them)."""

    def close(self) -> None:
        """Ends threads and processes."""


def build_pass(level: Level, loader: RowLoader, workload: Workload) -> Pass:
    """Returns the pass of a level."""
    if level == "val-epoch":
        return _Validation(loader, workload)
    if level == "decode":
        return _Loading(loader, loader.decoded)
    if level == "train-step":
        step = training_step(workload)
        return _Loading(loader, lambda: _stepped(loader.epoch(), step))
    return _Loading(loader, lambda: (len(batch.indices) for batch in loader.epoch()))


class _Loading:
    def __init__(self, loader: RowLoader, batches: Callable[[], Iterator[int]]) -> None:
        self.batches = batches
        self.close = loader.close

    def finish(self) -> dict[str, float]:
        return {}


def _stepped(batches: Iterator[InputBatch], step: Callable[[InputBatch], None]) -> Iterator[int]:
    for batch in batches:
        step(batch)
        yield len(batch.indices)


def training_step(workload: Workload) -> Callable[[InputBatch], None]:
    """Returns one optimizer step of the configured network. Its weights are random: the time does not depend on them."""
    config = workload.config
    model = _network(workload).train()
    loss, optimizer = DBLoss(config.loss), build_optimizer(model, config.optimizer)
    autocast = _autocast(workload)

    def step(batch: InputBatch) -> None:
        if batch.targets is None:
            raise ValueError("a training step needs targets")
        with autocast():
            maps = forward_maps(model, batch.images, config.trainer.channels_last)
        loss(maps, batch.targets.as_float32()).total.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _network(workload: Workload) -> DBNet:
    torch.manual_seed(workload.config.seed)
    model = workload.config.model
    without_weights = model.model_copy(update={"backbone": model.backbone.model_copy(update={"weights": None})})
    network = build_dbnet(without_weights, workload.config.targets.map_stride).to(workload.device)
    prepare_network(network, workload.config.trainer)
    return network


def _autocast(workload: Workload) -> Callable[[], torch.autocast]:
    precision = resolve_precision(workload.config.trainer.precision, workload.device)
    half = AUTOCAST.get(precision)
    return lambda: torch.autocast(workload.device.type, half or torch.bfloat16, enabled=half is not None)


class _Validation:
    """Forward pass, with post-processing and metric beside it.

    The network has random weights, so post-processing gets the shrink maps of the annotations instead of its output: the work
    that a trained network causes. The forward pass and the step from maps to levels are run all the same.
    """

    def __init__(self, loader: RowLoader, workload: Workload) -> None:
        self._loader, self._workload = loader, workload
        network = _network(workload).eval()
        self._forward = EvaluationForward(network, workload.config.trainer, workload.device.type)
        self._autocast = _autocast(workload)
        self._stages = DeviceStages()
        dataset = workload.dataset("val-epoch", num_workers=0)
        self._samples = dataset.planned(range(len(dataset)))
        size = (dataset.planner.input_size,) * 2
        polygons = dataset.planner.input_polygons(dataset.manifest, self._samples)
        shrink_maps = make_targets(polygons, size, dataset.targets).shrink_map
        self._levels = to_levels(shrink_maps, workload.config.postprocess.bin_thresh).to(workload.device)
        self._workers = OverlappedEvaluation(
            dataset.manifest, workload.config.postprocess, dataset.targets, with_truth=True, with_cleval=False
        )

    def batches(self) -> Iterator[int]:
        for batch in self._loader.epoch():
            self._evaluate(batch)
            yield len(batch.indices)

    def finish(self) -> dict[str, float]:
        blocked = self._workers.pool.blocked_seconds  # without the end of the epoch, where nothing can run beside
        results = self._workers.finish()
        seconds = {
            "forward": self._stages.seconds("forward"),
            "postprocess": sum(result.postprocess_seconds + result.metric_seconds for result in results),
            "blocked": blocked,
        }
        self._workers.pool.reset_statistics()
        self._stages = DeviceStages()
        return seconds

    @torch.inference_mode()
    def _evaluate(self, batch: InputBatch) -> None:
        config = self._workload.config
        samples = self._samples.select(batch.indices)
        with self._stages.stage("forward", self._workload.device), self._autocast():
            maps = self._forward(batch.images, samples.resized_sizes)
        to_levels(maps.prob_map, config.postprocess.bin_thresh)
        # Indexing with a list would wait for the device.
        rows = torch.tensor(batch.indices).to(self._levels.device, non_blocking=True)
        self._workers.add(self._levels[rows], samples)

    def close(self) -> None:
        self._loader.close()
        self._workers.close()
