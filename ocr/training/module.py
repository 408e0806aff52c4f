"""The Lightning module: wires network, loss, post-processing and metric together."""

import time
from dataclasses import dataclass, field
from typing import Any

import lightning
import numpy as np
import torch
from torch import Tensor

from ocr.checkpoint import CONFIG_KEY
from ocr.config import TrainConfig
from ocr.datasets.loader import Batch
from ocr.datasets.manifest import Manifest
from ocr.losses.db_loss import DBLoss
from ocr.metrics.icdar import ICDARMetric
from ocr.models.db_head import DBMaps
from ocr.models.dbnet import DBNet
from ocr.postprocess import Detections, detect, moved_detections
from ocr.training.optimizer import build_optimizer, build_schedule

STRICT_IOU = 0.7
"""Second threshold at which hmean is told: how well boxes fit. The best checkpoint is chosen at 0.5."""


@dataclass
class StageSeconds:
    """Where the time of an evaluation epoch went."""

    forward: float = 0.0
    postprocess: float = 0.0
    metric: float = 0.0


@dataclass
class EvaluationResult:
    """What an evaluation epoch leaves behind."""

    detections_original: dict[int, Detections] = field(default_factory=dict)
    """By position in the manifest; pixels of the upright image."""
    seconds: StageSeconds = field(default_factory=StageSeconds)


class DBNetModule(lightning.LightningModule):
    """Trains a DBNet and evaluates it by ICDAR IoU.

    Args:
        model: the network.
        config: of the run; saved in each checkpoint.
        manifest: of the split that is evaluated; its polygons are the ground truth.
    """

    def __init__(self, model: DBNet, config: TrainConfig, manifest: Manifest) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.manifest = manifest
        self.loss = DBLoss(config.loss)
        self.metric = ICDARMetric()
        self.strict_metric = ICDARMetric(iou_threshold=STRICT_IOU)
        self.evaluation = EvaluationResult()
        if config.trainer.channels_last:
            self.model.to(memory_format=torch.channels_last)
        if config.trainer.compile:
            self.model.compile()  # in place: the names in checkpoints stay

    def forward(self, images: Tensor) -> DBMaps:
        """The maps of (B, 3, H, W) normalised images."""
        if self.config.trainer.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return self.model(images)

    def on_train_epoch_start(self) -> None:
        # Not called when a run goes on in the middle of an epoch: then the loader's own state has told it the epoch.
        self.trainer.train_dataloader.set_epoch(self.current_epoch)  # type: ignore[union-attr]

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        losses = self.loss(self(batch.images), batch.targets)
        scalars = {f"train/{name}_loss": value.detach() for name, value in losses._asdict().items()}
        self.log_dict(scalars, on_step=True, on_epoch=True, batch_size=len(batch.samples))
        return losses.total

    def on_validation_epoch_start(self) -> None:
        self.evaluation = EvaluationResult()
        self.metric.reset()
        self.strict_metric.reset()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._detect(batch)
        started = time.perf_counter()
        truth = self.manifest.polygons
        for index in (sample.index for sample in batch.samples if not sample.is_padding):
            found = self.evaluation.detections_original[index]
            for metric in (self.metric, self.strict_metric):
                metric.update([found.polygons], [truth.polygons_of(index)], [truth.ignore_of(index)])
        self.evaluation.seconds.metric += time.perf_counter() - started

    def on_predict_epoch_start(self) -> None:
        self.evaluation = EvaluationResult()

    def predict_step(self, batch: Batch, batch_idx: int) -> None:
        self._detect(batch)

    def on_validation_epoch_end(self) -> None:
        self._gather_detections()
        started = time.perf_counter()
        scores = {f"val/{name}": value for name, value in self.metric.compute().items()}
        scores[f"val/hmean_iou{STRICT_IOU}"] = self.strict_metric.compute()["hmean"]
        self.evaluation.seconds.metric += time.perf_counter() - started
        self.log_dict(scores)  # already summed over all ranks

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

    def _detect(self, batch: Batch) -> None:
        """Adds the detections of each image, padding left out, to `self.evaluation`."""
        config, seconds = self.config, self.evaluation.seconds
        started = time.perf_counter()
        prob_maps_BHW = self(batch.images).prob_map.float().cpu().numpy()
        forwarded = time.perf_counter()
        seconds.forward += forwarded - started
        for prob_map, sample in zip(prob_maps_BHW, batch.samples, strict=True):
            if sample.is_padding:
                continue
            height, width = self.manifest.original_sizes[sample.index]
            detections_input = detect(
                _without_padding(prob_map, sample.resized_size, config.targets.map_stride),
                map_stride=config.targets.map_stride,
                shrink_ratio=config.targets.shrink_ratio,
                config=config.postprocess,
            )
            self.evaluation.detections_original[sample.index] = moved_detections(
                detections_input, np.linalg.inv(sample.input_from_original), (int(height), int(width))
            )
        seconds.postprocess += time.perf_counter() - forwarded


def _without_padding(prob_map: np.ndarray, image_size: tuple[int, int], map_stride: int) -> np.ndarray:
    """The part of the map that shows the image, which lies top left."""
    height, width = image_size
    return np.ascontiguousarray(prob_map[: -(-height // map_stride), : -(-width // map_stride)])
