"""The workload that all rows share: images, inputs to make of them, and network."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from benchmarks.loaders.config import WITH_NETWORK, Level, MeasureConfig
from benchmarks.loaders.row_loader import RivalFiles
from benchmarks.loaders.splits import spread_evenly
from dali_pipelines.normalize import input_dtype
from ocr.datasets.base import ValidatedOCRDataset
from ocr.datasets.manifest import Manifest
from ocr.datasets.plan import SamplePlanner
from ocr.datasets.schemas import DatasetConfig
from ocr.device import resolve_device
from ocr.targets.target_maps import TargetMaps


@dataclass(frozen=True)
class Workload:
    """Images, configuration and scratch folder. It is sent to the process of each row."""

    config: MeasureConfig
    train: Manifest
    """Images of all levels except val-epoch."""
    val: Manifest
    """Images of val-epoch."""
    scratch: Path
    """Folder that rows write into, removed after the comparison."""

    @cached_property
    def device(self) -> torch.device:
        """Device of the run."""
        return resolve_device(self.config.device)

    def dataset(self, level: Level, num_workers: int, cache: DatasetConfig | None = None) -> ValidatedOCRDataset:
        """Returns the images of a level with their plan: whole images at the network's input size, or crops with augment=true.

        Args:
            cache: preload and cache settings; None: nothing is kept.
        """
        manifest = spread_evenly(self.val if level == "val-epoch" else self.train, self.num_images(level, num_workers))
        split = self.config.datasets.split("val" if level == "val-epoch" else "train")
        config = (cache or DatasetConfig(image_path="-")).model_copy(
            update={"image_path": split.image_path, "image_loading_config": split.image_loading_config}
        )
        return ValidatedOCRDataset(config, self.planner(level), self.config.targets, manifest)

    def num_images(self, level: Level, num_workers: int) -> int:
        """Returns the number of images of an epoch, enough to keep all workers busy."""
        config, batch_size = self.config, self.batch_size(level)
        if level in WITH_NETWORK:
            num_batches = config.step_batches or (24 if self.device.type == "cuda" else 2)
            return batch_size * num_batches
        return config.num_images or max(64, 8 * batch_size * max(num_workers, 1))

    def planner(self, level: Level) -> SamplePlanner:
        """Returns the planner of a level; random only with augment=true."""
        pipeline = self.config.pipeline
        augment = self.config.augment and level in ("input", "input+targets", "train-step")
        if level != "val-epoch" and not augment:
            pipeline = pipeline.model_copy(update={"image_size": pipeline.crop_size})
        return SamplePlanner(pipeline, training=augment, seed=self.config.seed)

    def batch_size(self, level: Level) -> int:
        """Returns the batch size of a level."""
        dataloader = self.config.dataloader
        return dataloader.eval_batch_size if level == "val-epoch" else dataloader.batch_size

    def files(self, level: Level, num_workers: int) -> RivalFiles:
        """Returns the image files of a level, for a rival."""
        dataset = self.dataset(level, num_workers)
        manifest, pipeline = dataset.manifest, dataset.planner.config
        samples = dataset.planned(range(len(manifest)))
        return RivalFiles(
            paths=tuple(manifest.image_paths),
            orientations=tuple(int(orientation) for orientation in manifest.orientations),
            original_sizes=tuple((int(height), int(width)) for height, width in manifest.original_sizes),
            resized_sizes=tuple(sample.resized_size for sample in samples),
            image_size=dataset.planner.input_size,
            mean=pipeline.mean,
            std=pipeline.std,
            batch_size=self.batch_size(level),
            num_workers=num_workers,
            device=self.device,
            dtype=input_dtype(pipeline, self.device.type),
            scratch=self.scratch,
            make_targets=_target_maker(dataset, self.device) if level in ("input+targets", "train-step") else None,
        )


def _target_maker(dataset: ValidatedOCRDataset, device: torch.device) -> Callable[[Sequence[int]], TargetMaps]:
    def make_targets(indices: Sequence[int]) -> TargetMaps:
        return dataset.make_targets(dataset.planned(indices), device)

    return make_targets
