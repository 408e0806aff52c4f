"""Builds loaders of the drawn images with a tensor cache, and compares their batches. Shared by the tests of this folder."""

import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dali_pipelines.config import PipelineConfig
from ocr.cache.budget import FreeMemory, plan_tiers
from ocr.cache.entry import entry_layout
from ocr.datasets.base import ValidatedOCRDataset
from ocr.datasets.kept_images import keep_images
from ocr.datasets.plan import SamplePlanner
from ocr.datasets.schemas import CacheConfig, DatasetConfig
from ocr.loaders.batch import Batch
from ocr.loaders.engines import Engine
from ocr.loaders.loader import BatchLoader
from ocr.targets.config import TargetConfig

CPU = torch.device("cpu")
SIZE = 128
BATCH = 4
NUM_IMAGES = 10
"""Images of the split `train` of the session fixture `drawn`, read here without augmentation."""
DISK = {"budget_entries": 0, "directory": "cache"}


def cached_loader(
    root: Path,
    *,
    split: str = "train",
    budget_entries: int | None = None,
    cached: bool = True,
    rank: int = 0,
    num_ranks: int = 1,
    loader: str = "dali",
    num_workers: int = 0,
    device: torch.device = CPU,
    pipeline: PipelineConfig | None = None,
    targets: TargetConfig | None = None,
    wait_seconds: float = 60,
    reading: dict | None = None,
    **cache,
) -> BatchLoader:
    """Returns a loader of a split without augmentation, with RAM for `budget_entries` entries; None: for all.

    Args:
        reading: settings of the split that say how images are read.
    """
    config = DatasetConfig(
        image_path=str(root / "images" / split),
        annotation_path=str(root / "jsons" / f"{split}.json"),
        unreadable_wait_seconds=wait_seconds,
        cache_config=CacheConfig(cache_transformed_tensors=True, **cache),
        **(reading or {}),
    )
    planner = SamplePlanner(pipeline or PipelineConfig(image_size=SIZE), training=False, seed=0)
    dataset = ValidatedOCRDataset(config, planner, targets or TargetConfig(map_stride=2))
    dataset.kept_images = keep_images(config, dataset.manifest, device=CPU, ram_budget=10**9, device_budget=0)
    layout = entry_layout(dataset, with_targets=True)
    ram = 10**9 if budget_entries is None else 2 * budget_entries * layout.num_bytes
    num_entries = -(-len(dataset) // num_ranks)
    tiers = plan_tiers(layout, num_entries, BATCH, config.cache_config, device, FreeMemory(gpu=10**9, ram=ram))
    return BatchLoader(
        dataset,
        Engine(loader, device, num_workers),
        BATCH,
        rank=rank,
        num_ranks=num_ranks,
        with_targets=True,
        tiers=tiers if cached else None,
    )


def in_folder(settings: dict, folder: Path) -> dict:
    """Returns the settings with the folder of the disk tier, if there is one, below `folder`."""
    return settings | ({"directory": str(folder / "cache")} if "directory" in settings else {})


def run_epoch(loader: BatchLoader, epoch: int = 0) -> list[Batch]:
    loader.set_epoch(epoch)
    loader.reset_statistics()
    return list(loader)


def counts(loader: BatchLoader) -> tuple[int, int]:
    """Returns hits and misses of the last epoch."""
    return loader.statistics.epoch_hits, loader.statistics.epoch_misses


def images_of(batches: list[Batch]) -> torch.Tensor:
    return torch.cat([batch.images for batch in batches])


def maps_of(batches: list[Batch], name: str) -> torch.Tensor:
    return torch.cat([getattr(batch.targets, name).float() for batch in batches])


def resident(loader: BatchLoader, name: str) -> torch.Tensor:
    """Returns (N, ...), the memory of all entries of a loader that holds them in RAM."""
    return loader.cache.store.read(range(loader.cache.store.plan.num_entries)).tensors[name]


def assert_same(found: list[Batch], expected: list[Batch]) -> None:
    assert torch.equal(images_of(found), images_of(expected))
    for name in ("shrink_map", "shrink_mask", "thresh_map", "thresh_mask"):
        assert torch.equal(maps_of(found, name), maps_of(expected, name)), name
    for one, other in zip(found, expected, strict=True):
        assert [sample.index for sample in one.samples] == [sample.index for sample in other.samples]
        assert [sample.is_padding for sample in one.samples] == [sample.is_padding for sample in other.samples]


def change_first_image(root: Path) -> None:
    """Replaces the first image by another picture of the same size, and restores its mtime."""
    path, other = sorted((root / "images" / "train").iterdir())[:2]
    before = path.stat()
    with Image.open(path) as image:
        exif, size = image.getexif(), image.size
    with Image.open(other) as image:
        image.convert("RGB").resize(size).save(path, exif=exif, quality=90)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def uncached_dataset(root: Path, *, training: bool, pipeline: PipelineConfig | None = None) -> ValidatedOCRDataset:
    """Returns the drawn images of the split `train`, augmented if `training`."""
    config = DatasetConfig(image_path=str(root / "images/train"), annotation_path=str(root / "jsons/train.json"))
    planner = SamplePlanner(pipeline or PipelineConfig(image_size=160), training=training, seed=5)
    return ValidatedOCRDataset(config, planner)


def first_batches(loader: BatchLoader, count: int) -> list[Batch]:
    return [batch for batch, _ in zip(loader, range(count), strict=False)]


def to_levels(images: torch.Tensor, config: PipelineConfig) -> np.ndarray:
    """Returns (B, H, W, 3), the levels 0 to 255 of normalised images."""
    return (images.permute(0, 2, 3, 1) * torch.tensor(config.std) + torch.tensor(config.mean)).numpy()
