"""The Lightning module: wires network, loss, post-processing and metric together."""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import lightning
import torch
from torch import Tensor

from ocr.checkpoint import CONFIG_KEY
from ocr.config import TrainConfig
from ocr.datasets.manifest import Manifest
from ocr.loaders.batch import Batch
from ocr.losses.db_loss import DBLoss
from ocr.metrics.cleval import CLEvalCounts, CLEvalMetric
from ocr.metrics.icdar import ICDARMetric, MatchCounts
from ocr.models.db_head import DBMaps
from ocr.models.dbnet import DBNet
from ocr.postprocess import Detections, to_levels
from ocr.training.evaluation import IOU_THRESHOLDS, ImageResult, OverlappedEvaluation
from ocr.training.network import EvaluationForward, forward_maps, prepare_network
from ocr.training.optimizer import build_optimizer, build_schedule
from ocr.training.stages import DeviceStages

Counts = TypeVar("Counts", MatchCounts, CLEvalCounts)

STRICT_IOU = IOU_THRESHOLDS[1]


@dataclass
class EvaluationSeconds:
    """Where the time of an evaluation epoch went. The host's work runs beside the device's: the sum may exceed the epoch."""

    forward: float = 0.0
    device_postprocess: float = 0.0
    postprocess: float = 0.0
    """On the host, summed over the worker threads; the metric too."""
    metric: float = 0.0
    blocked: float = 0.0
    """The forward pass waited for the workers: a full queue, and the last images."""


@dataclass
class EvaluationResult:
    """What an evaluation epoch leaves behind."""

    detections_original: dict[int, Detections] = field(default_factory=dict)
    """By position in the manifest; pixels of the upright image."""
    seconds: EvaluationSeconds = field(default_factory=EvaluationSeconds)


class DBNetModule(lightning.LightningModule):
    """Trains a DBNet and evaluates it by ICDAR IoU, and by CLEval where asked for.

    Args:
        model: the network.
        config: of the run; saved in each checkpoint.
        manifest: of the split that is evaluated; its polygons are the ground truth.
        with_cleval: compute CLEval too; metric=cleval does in any case.
    """

    def __init__(self, model: DBNet, config: TrainConfig, manifest: Manifest, with_cleval: bool = False) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.manifest = manifest
        self.loss = DBLoss(config.loss)
        self.metric, self.strict_metric = (ICDARMetric(threshold) for threshold in IOU_THRESHOLDS)
        self.cleval_metric = CLEvalMetric() if with_cleval or config.metric == "cleval" else None
        self.evaluation = EvaluationResult()
        self._stages = DeviceStages()
        self._overlapped: OverlappedEvaluation | None = None
        self._evaluation_forward: EvaluationForward | None = None
        prepare_network(self.model, config.trainer)

    def forward(self, images: Tensor) -> DBMaps:
        """The maps of (B, 3, H, W) normalised images."""
        return forward_maps(self.model, images, self.config.trainer.channels_last)

    def on_train_epoch_start(self) -> None:
        # Not called when a run goes on in the middle of an epoch: then the loader's own state has told it the epoch.
        self.trainer.train_dataloader.set_epoch(self.current_epoch)  # type: ignore[union-attr]

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        losses = self.loss(self(batch.images), batch.targets)
        scalars = {f"train/{name}_loss": value.detach() for name, value in losses._asdict().items()}
        self.log_dict(scalars, on_step=True, on_epoch=True, batch_size=len(batch.samples))
        return losses.total

    def on_validation_epoch_start(self) -> None:
        self._start_evaluation(with_truth=True)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        maps = self._evaluate(batch)
        if batch.targets is not None:
            loss = self.loss(maps, batch.targets.as_float32()).total
            num_real = sum(not sample.is_padding for sample in batch.samples)
            self.log("val/loss", loss, on_epoch=True, batch_size=max(num_real, 1), sync_dist=True)

    def on_predict_epoch_start(self) -> None:
        self._start_evaluation(with_truth=False)

    def predict_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate(batch)

    def on_predict_epoch_end(self) -> None:
        self._finish_evaluation()

    def on_validation_epoch_end(self) -> None:
        results = self._finish_evaluation()
        self._gather_detections()
        started = time.perf_counter()
        for place, metric in enumerate((self.metric, self.strict_metric)):
            metric.reset()
            metric.add(summed(MatchCounts, (result.matches[place] for result in results)))
        scores = {f"val/{name}": value for name, value in self.metric.compute().items()}
        scores[f"val/hmean_iou{STRICT_IOU}"] = self.strict_metric.compute()["hmean"]
        scores |= self._cleval_scores(results)
        self.evaluation.seconds.metric += time.perf_counter() - started
        self.log_dict(scores)  # already summed over all ranks

    def teardown(self, stage: str) -> None:
        if self._overlapped is not None:
            self._overlapped.close()
            self._overlapped = None
        if self._evaluation_forward is not None:
            self._evaluation_forward.release()
            self._evaluation_forward = None

    def configure_optimizers(self) -> Any:
        optimizer = build_optimizer(self.model, self.config.optimizer)
        num_steps = int(self.trainer.estimated_stepping_batches)
        schedule = build_schedule(optimizer, num_steps, self.config.optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[CONFIG_KEY] = self.config.model_dump(mode="json")

    def _gather_detections(self) -> None:
        """Gives each rank the detections of all, for predictions.json and the pictures."""
        if self.trainer.world_size == 1:
            return
        of_ranks: list[dict[int, Detections]] = [{} for _ in range(self.trainer.world_size)]
        torch.distributed.all_gather_object(of_ranks, self.evaluation.detections_original)
        for detections in of_ranks:
            self.evaluation.detections_original.update(detections)

    def _start_evaluation(self, with_truth: bool) -> None:
        if self._overlapped is None:
            self._overlapped = OverlappedEvaluation(
                self.manifest,
                self.config.postprocess,
                self.config.targets,
                with_truth=with_truth,
                with_cleval=self.cleval_metric is not None,
            )
        if self._evaluation_forward is None:
            self._evaluation_forward = EvaluationForward(
                self.forward,
                self.model,
                self.config.trainer,
                self.config.dataloader.eval_batch_size,
                self.device.type,
            )
        self.evaluation = EvaluationResult()
        self._stages = DeviceStages()

    def _evaluate(self, batch: Batch) -> DBMaps:
        """The maps of a batch, which are handed over to the workers."""
        if self._evaluation_forward is None:
            raise RuntimeError("no evaluation was started")
        with self._stages.stage("forward", self.device):
            maps = self._evaluation_forward(batch.images)
        with self._stages.stage("device_postprocess", self.device):
            levels = to_levels(maps.prob_map, self.config.postprocess.bin_thresh)
        self._workers.add(levels, batch.samples)
        return maps

    @property
    def _workers(self) -> OverlappedEvaluation:
        if self._overlapped is None:
            raise RuntimeError("no evaluation was started")
        return self._overlapped

    def _finish_evaluation(self) -> list[ImageResult]:
        """Waits for the workers; fills `self.evaluation`."""
        pool, seconds = self._workers.pool, self.evaluation.seconds
        results = self._workers.finish()
        self.evaluation.detections_original = {result.sample_index: result.detections_original for result in results}
        seconds.forward = self._stages.seconds("forward")
        seconds.device_postprocess = self._stages.seconds("device_postprocess")
        seconds.postprocess = sum(result.postprocess_seconds for result in results)
        seconds.metric = sum(result.metric_seconds for result in results)
        seconds.blocked = pool.blocked_seconds
        pool.reset_statistics()
        return results

    def _cleval_scores(self, results: list[ImageResult]) -> dict[str, Tensor]:
        """val/cleval_hmean and so on; with metric=cleval val/hmean and so on too, and val/iou_hmean beside them."""
        if self.cleval_metric is None:
            return {}
        self.cleval_metric.reset()
        characters = (result.characters for result in results if result.characters is not None)
        self.cleval_metric.add(summed(CLEvalCounts, characters))
        found = self.cleval_metric.compute()
        scores = {f"val/cleval_{name}": value for name, value in found.items()}
        if self.config.metric == "cleval":
            scores |= {f"val/iou_{name}": value for name, value in self.metric.compute().items()}
            scores |= {f"val/{name}": value for name, value in found.items()}
        return scores


def summed(kind: type[Counts], counts: Iterable[Counts]) -> Counts:
    """The counts of many images as those of one: added up here, each is one number less on its way to the device."""
    nothing = kind(*[0] * len(kind._fields))
    return kind(*(sum(column) for column in zip(nothing, *counts, strict=True)))
