"""Batches for training and evaluation: planned images from DALI or from PyTorch workers, their polygons and target maps."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from pydantic import Field

from dali_pipelines.config import Section
from dali_pipelines.loader import DaliLoader, ImageBatch
from dali_pipelines.source import EpochPlan as EpochPlanProtocol
from dali_pipelines.source import PlannedSample
from ocr.datasets.base import ValidatedOCRDataset, polygons_for_training
from ocr.datasets.plan import EpochPlan
from ocr.datasets.torch_loader import TorchLoader
from ocr.polygons import PolygonBatch
from ocr.targets import TargetMaps, make_targets


class DataLoaderConfig(Section):
    batch_size: int = Field(default=8, ge=1)
    """Training images a step on each rank."""
    eval_batch_size: int = Field(default=4, ge=1)
    """Validation, test and prediction images a step on each rank."""
    num_workers: int = Field(default=2, ge=0)
    """Worker processes of loader=torch; loader=dali has threads (pipeline.num_threads)."""


@dataclass(frozen=True)
class Batch:
    """What one step gets."""

    images: torch.Tensor
    """(B, 3, H, W) normalised, on the device."""
    samples: tuple[PlannedSample, ...]
    polygons_input: PolygonBatch
    """On the host."""
    targets: TargetMaps | None
    """On the device; padded samples have empty masks. None outside of training."""


class ImageLoader(Protocol):
    """Executes a plan. `DaliLoader` and `TorchLoader` give the same images for the same plan."""

    failures: dict[str, str]

    def batches(self, plan: EpochPlanProtocol, first_step: int = 0) -> Iterator[ImageBatch]: ...


class BatchLoader:
    """One split, as Lightning iterates it: sized, restartable, resumable in the middle of an epoch.

    Each iteration starts a fresh epoch plan, so a sanity check, `limit_val_batches` or an abandoned loop never changes which
    samples the next one sees. Time the consumer spent waiting is summed in `wait_seconds`.
    """

    def __init__(
        self,
        dataset: ValidatedOCRDataset,
        *,
        loader: Literal["dali", "torch"],
        batch_size: int,
        num_workers: int,
        device: torch.device,
        rank: int = 0,
        num_ranks: int = 1,
        skip_failures: bool = True,
    ) -> None:
        self.dataset = dataset
        self.batch_size = batch_size
        self.device = device
        self.epoch = 0
        self.wait_seconds = 0.0
        self.num_images = 0
        self._rank, self._num_ranks = rank, num_ranks
        self._step = 0
        self._resume_at: tuple[int, int] | None = None
        self._loader: ImageLoader
        if loader == "dali":
            self._loader = DaliLoader(
                dataset.manifest.image_paths,
                dataset.transform.config,
                training=dataset.transform.training,
                batch_size=batch_size,
                device=device,
                skip_failures=skip_failures,
            )
        else:
            self._loader = TorchLoader(dataset, num_workers=num_workers, device=device, skip_failures=skip_failures)

    @property
    def failures(self) -> dict[str, str]:
        """Reason for each file that failed while running."""
        return self._loader.failures

    def plan(self, epoch: int) -> EpochPlan:
        """The plan of an epoch on this rank."""
        return EpochPlan(
            self.dataset.manifest,
            self.dataset.transform,
            epoch=epoch,
            batch_size=self.batch_size,
            rank=self._rank,
            num_ranks=self._num_ranks,
        )

    def __len__(self) -> int:
        return len(self.plan(self.epoch))

    def set_epoch(self, epoch: int) -> None:
        """The epoch that the next iteration runs."""
        self.epoch = epoch

    def reset_statistics(self) -> None:
        """Starts counting waiting time and images anew."""
        self.wait_seconds, self.num_images = 0.0, 0

    def state_dict(self) -> dict[str, int]:
        """Where this loader is: all that a resumed run needs, since the plan is a function of it."""
        return {"epoch": self.epoch, "step": self._step}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """The next iteration goes on where `state` was taken."""
        self._resume_at = state["epoch"], state["step"]
        self.epoch = state["epoch"]

    def __iter__(self) -> Iterator[Batch]:
        plan = self.plan(self.epoch)
        self._step = self._first_step(len(plan))
        images = self._loader.batches(plan, self._step)
        while self._step < len(plan):
            started = time.perf_counter()
            batch = self._complete(next(images))
            self.wait_seconds += time.perf_counter() - started
            self.num_images += sum(not sample.is_padding for sample in batch.samples)
            self._step += 1
            yield batch

    def _first_step(self, num_steps: int) -> int:
        resume_at, self._resume_at = self._resume_at, None
        if resume_at is None or resume_at[0] != self.epoch or resume_at[1] >= num_steps:
            return 0
        return resume_at[1]

    def _complete(self, batch: ImageBatch) -> Batch:
        """The batch with its polygons and, in training, its targets, made on the device."""
        dataset = self.dataset
        polygons = polygons_for_training(dataset.manifest, batch.samples, dataset.transform)
        targets = None
        if dataset.transform.training:
            targets = make_targets(
                polygons, (batch.images.shape[2], batch.images.shape[3]), dataset.targets, self.device
            )
            targets = targets.blanked(torch.tensor([sample.is_padding for sample in batch.samples]))
        return Batch(batch.images, batch.samples, polygons, targets)
