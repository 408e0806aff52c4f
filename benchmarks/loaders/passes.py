"""One pass over the images at each level: what is timed."""

from collections.abc import Callable, Iterator
from typing import Protocol

import torch

from benchmarks.loaders.config import Level
from benchmarks.loaders.setting import Setting
from benchmarks.loaders.source import InputBatch, Source
from ocr.device import AUTOCAST, resolve_precision
from ocr.losses.db_loss import DBLoss
from ocr.models.dbnet import DBNet, build_dbnet
from ocr.postprocess.levels import to_levels
from ocr.targets.maps import make_targets
from ocr.training.evaluation import OverlappedEvaluation
from ocr.training.network import EvaluationForward, forward_maps, prepare_network
from ocr.training.optimizer import build_optimizer
from ocr.training.stages import DeviceStages


class Pass(Protocol):
    """One epoch at a time."""

    def batches(self) -> Iterator[int]:
        """Runs an epoch; the number of images of each batch, as soon as it is done with or on its way."""

    def finish(self) -> dict[str, float]:
        """Ends the epoch; seconds of its stages, where they are known: forward, postprocess (summed over its threads), blocked
        (the forward pass waited for them)."""

    def close(self) -> None:
        """Ends threads and processes."""


def pass_of(level: Level, source: Source, setting: Setting) -> Pass:
    """What runs the epochs of a level."""
    if level == "val-epoch":
        return _Validation(source, setting)
    if level == "decode":
        return _Loading(source, source.decoded)
    if level == "train-step":
        step = training_step(setting)
        return _Loading(source, lambda: _stepped(source.epoch(), step))
    return _Loading(source, lambda: (len(batch.indices) for batch in source.epoch()))


class _Loading:
    def __init__(self, source: Source, batches: Callable[[], Iterator[int]]) -> None:
        self.batches = batches
        self.close = source.close

    def finish(self) -> dict[str, float]:
        return {}


def _stepped(batches: Iterator[InputBatch], step: Callable[[InputBatch], None]) -> Iterator[int]:
    for batch in batches:
        step(batch)
        yield len(batch.indices)


def training_step(setting: Setting) -> Callable[[InputBatch], None]:
    """One optimizer step of the configured network, from random weights: the time does not depend on them."""
    config = setting.config
    model = _network(setting).train()
    loss, optimizer = DBLoss(config.loss), build_optimizer(model, config.optimizer)
    autocast = _autocast(setting)

    def step(batch: InputBatch) -> None:
        if batch.targets is None:
            raise ValueError("a training step needs targets")
        with autocast():
            maps = forward_maps(model, batch.images, config.trainer.channels_last)
        loss(maps, batch.targets.as_float32()).total.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _network(setting: Setting) -> DBNet:
    torch.manual_seed(setting.config.seed)
    model = setting.config.model
    without_weights = model.model_copy(update={"backbone": model.backbone.model_copy(update={"weights": None})})
    network = build_dbnet(without_weights, setting.config.targets.map_stride).to(setting.device)
    prepare_network(network, setting.config.trainer)
    return network


def _autocast(setting: Setting) -> Callable[[], torch.autocast]:
    precision = resolve_precision(setting.config.trainer.precision, setting.device)
    half = AUTOCAST.get(precision)
    return lambda: torch.autocast(setting.device.type, half or torch.bfloat16, enabled=half is not None)


class _Validation:
    """Validation epochs: forward pass, post-processing and metric beside it.

    The network has random weights, so post-processing is given the shrink maps of the annotations in place of its maps: the work
    that a trained network would make. The forward pass and the step from maps to levels are done all the same.
    """

    def __init__(self, source: Source, setting: Setting) -> None:
        self._source, self._setting = source, setting
        network = _network(setting).eval()
        self._forward = EvaluationForward(
            network, setting.config.trainer, setting.batch_size("val-epoch"), setting.device.type
        )
        self._autocast = _autocast(setting)
        self._stages = DeviceStages()
        dataset = setting.dataset("val-epoch", num_workers=0)
        self._samples = [dataset.planned(index) for index in range(len(dataset))]
        size = (dataset.planner.input_size,) * 2
        polygons = dataset.planner.input_polygons(dataset.manifest, self._samples)
        shrink_maps = make_targets(polygons, size, dataset.targets).shrink_map
        self._levels = to_levels(shrink_maps, setting.config.postprocess.bin_thresh).to(setting.device)
        self._workers = OverlappedEvaluation(
            dataset.manifest, setting.config.postprocess, dataset.targets, with_truth=True, with_cleval=False
        )

    def batches(self) -> Iterator[int]:
        for batch in self._source.epoch():
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
        config = self._setting.config
        with self._stages.stage("forward", self._setting.device), self._autocast():
            maps = self._forward(batch.images)
        to_levels(maps.prob_map, config.postprocess.bin_thresh)
        rows = torch.tensor(batch.indices).to(
            self._levels.device, non_blocking=True
        )  # a list of rows would be waited for
        self._workers.add(self._levels[rows], [self._samples[index] for index in batch.indices])

    def close(self) -> None:
        self._source.close()
        self._workers.close()
