"""The Lightning module: connects network, loss, evaluation and scores."""

import inspect
import time
from typing import Any

import lightning
import torch
from torch import Tensor, nn

from ocr.checkpoint import CONFIG_KEY, PRECISION_KEY
from ocr.config import TrainConfig
from ocr.datasets.manifest import Manifest
from ocr.loaders.batch import Batch
from ocr.losses.db_loss import DBLoss
from ocr.models.db_head import DBMaps
from ocr.pages.detector import PageDetector
from ocr.training.evaluator import EvaluationResult, Evaluator
from ocr.training.network import forward_maps, prepare_network
from ocr.training.optimizer import build_optimizer, build_schedule
from ocr.training.result_lines import ResultLines
from ocr.training.resume import check_optimizer_state, use_given_optimizer
from ocr.training.scores import ValidationScores


class DBNetModule(lightning.LightningModule):
    """Trains a DBNet and evaluates it by ICDAR IoU, and optionally by CLEval.

    Args:
        model: the network; that of an exported file only evaluates.
        config: configuration of the run; saved in each checkpoint.
        manifest: manifest of the evaluated split; its polygons are the ground truth.
        with_cleval: compute CLEval too; metric=cleval does so in any case.
        lines: receives the results of a prediction as they come, and says whether to compare them with the ground truth; None:
            `evaluation` has the detections of all images.
        pages: looks closer at large pages and at pages on their side; None: all images are seen as a whole only.
    """

    def __init__(
        self,
        model: nn.Module,
        config: TrainConfig,
        manifest: Manifest,
        with_cleval: bool = False,
        lines: ResultLines | None = None,
        pages: PageDetector | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.loss = DBLoss(config.loss)
        self.scores = ValidationScores(config.metric, with_cleval, manifest.sets)
        self.evaluator = Evaluator(
            model, config, manifest, with_cleval=self.scores.has_cleval, lines=lines, pages=pages
        )
        self._predicts_with_truth = lines is not None and lines.with_truth
        prepare_network(self.model, config.trainer)

    def __setattr__(self, name: str, value: Any) -> None:
        # Lightning sets the hook's name about 46 times a step. PyTorch's way checks each value for parameters and submodules.
        if name == "_current_fx_name":
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    @property
    def evaluation(self) -> EvaluationResult:
        """Detections and timing of the last validation or prediction."""
        return self.evaluator.result

    def forward(self, images: Tensor) -> DBMaps:
        """Returns the maps of (B, 3, H, W) normalised images."""
        return forward_maps(self.model, images, self.config.trainer.channels_last)

    def on_train_epoch_start(self) -> None:
        # Not called when a run resumes in the middle of an epoch: then the loader's restored state holds the epoch.
        self.trainer.train_dataloader.set_epoch(self.current_epoch)  # type: ignore[union-attr]

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        losses = self.loss(self(batch.images), batch.targets)
        # LossLog sums and logs them: Lightning's own log() costs more host time than the rest of a step.
        return {"loss": losses.total, "losses": torch.stack(losses).detach()}

    # Lightning inspects this method in each step; inspect returns a signature that is stored here at once.
    training_step.__signature__ = inspect.signature(training_step)  # type: ignore[attr-defined]

    def on_validation_epoch_start(self) -> None:
        self.evaluator.start(self.device, with_truth=True)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        maps = self.evaluator.evaluate(batch)
        if batch.targets is not None:
            loss = self.loss(maps, batch.targets.as_float32()).total
            num_real = batch.samples.num_real
            self.log("val/loss", loss, on_epoch=True, batch_size=max(num_real, 1), sync_dist=True)

    def on_validation_epoch_end(self) -> None:
        results = self.evaluator.finish()
        self.evaluator.gather_detections(self.trainer.world_size)
        started = time.perf_counter()
        scores = self.scores.compute(results)
        self.evaluation.seconds.metric += time.perf_counter() - started
        self.log_dict(scores)  # already summed over all ranks

    def on_predict_epoch_start(self) -> None:
        self.evaluator.start(self.device, with_truth=self._predicts_with_truth)

    def predict_step(self, batch: Batch, batch_idx: int) -> None:
        self.evaluator.evaluate(batch)

    def on_predict_epoch_end(self) -> None:
        self.evaluator.finish()

    def teardown(self, stage: str) -> None:
        self.evaluator.close()

    def configure_optimizers(self) -> Any:
        optimizer = build_optimizer(self.model, self.config.optimizer)
        num_steps = int(self.trainer.estimated_stepping_batches)
        schedule = build_schedule(optimizer, num_steps, self.config.optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        check_optimizer_state(checkpoint, build_optimizer(self.model, self.config.optimizer), self.config.resume)
        if self.config.resume_anyway:
            use_given_optimizer(checkpoint, self.config.optimizer)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[CONFIG_KEY] = self.config.model_dump(mode="json")
        checkpoint[PRECISION_KEY] = {"device_type": self.device.type, "precision": str(self.trainer.precision)}
