"""This project's loaders as rows of the benchmark."""

import gc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import DataLoader

from benchmarks.loaders.config import Level
from benchmarks.loaders.processes import flush
from benchmarks.loaders.row_loader import CannotRun, InputBatch
from benchmarks.loaders.workload import Workload
from ocr.cache.budget import FreeMemory, plan_tiers
from ocr.cache.entry import entry_layout
from ocr.datasets.base import ValidatedOCRDataset
from ocr.datasets.kept_images import keep_images
from ocr.datasets.manifest import Manifest
from ocr.datasets.plan import EpochPlan
from ocr.datasets.schemas import CacheConfig, DatasetConfig, ShardReader
from ocr.datasets.shards.images import load_shards
from ocr.datasets.shards.writer import ShardWriter
from ocr.errors import InputError
from ocr.loaders.engines import Engine, has_dali
from ocr.loaders.loader import BatchLoader

Keeps = Literal["nothing", "files", "images", "tensors"]
"""Data kept in memory after the first epoch: encoded files in RAM, decoded images or finished tensors on the device."""

_CACHES: dict[Keeps, DatasetConfig] = {
    "nothing": DatasetConfig(image_path="-"),
    "files": DatasetConfig(image_path="-", preload_images=True),
    "images": DatasetConfig(image_path="-", cache_config=CacheConfig(cache_decoded_images=True)),
    "tensors": DatasetConfig(image_path="-", cache_config=CacheConfig(cache_transformed_tensors=True)),
}
SHARD_SIZE = 256_000_000
"""Bytes of a tar shard; the default of prepare_data.py."""
RESIZE_FILTER = "antialiased triangle"
SCALED_FILTER = "DCT scaling to twice the size or more, then antialiased triangle"
_SAME_DECODE = "decodes as the row without it does"


@dataclass(frozen=True)
class LoaderKind:
    """One of the combinations that a training run can choose."""

    engine: Literal["dali", "torch"]
    keeps: Keeps = "nothing"
    shard_reader: ShardReader | None = None
    """Read the images from tar shards, which are written first; None: from their files."""
    scaled: bool = False
    """Decode at a fraction of the size: pipeline.scaled_decode."""


class OwnLoader:
    """A `BatchLoader`, as a row.

    Args:
        device: device that the loader works on; its batches are then moved to the workload's device.
        num_workers: worker processes of torch, threads of DALI.

    Raises:
        CannotRun: training crops cannot be kept, or DALI or the package of the shard reader is missing.
    """

    def __init__(
        self, workload: Workload, level: Level, kind: LoaderKind, device: torch.device, num_workers: int
    ) -> None:
        if kind.engine == "dali" and not has_dali():
            raise CannotRun("needs NVIDIA DALI, which this Python cannot import")
        if kind.keeps == "tensors" and workload.planner(level).is_random:
            raise CannotRun("training crops differ in each epoch, so finished tensors cannot be kept")
        self.dataset = workload.dataset(level, num_workers, _CACHES[kind.keeps])
        self.files_read: Sequence[str] = self.dataset.manifest.image_paths if kind.keeps == "nothing" else ()
        self.resize_filter = SCALED_FILTER if kind.scaled else RESIZE_FILTER
        self._kind, self._device, self._num_workers = kind, device, num_workers
        self._target_device = workload.device
        self._decoding: Any = None
        self._shards: TemporaryDirectory[str] | None = None
        if kind.shard_reader is not None:
            self._shards = TemporaryDirectory(dir=workload.scratch)
            self.dataset.manifest, self.files_read = _written_as_shards(
                self.dataset.manifest, self._shards, kind.shard_reader
            )
        planner = self.dataset.planner
        planner.config = planner.config.model_copy(update={"scaled_decode": kind.scaled})
        if kind.engine == "dali":
            planner.config = planner.config.model_copy(update={"num_threads": num_workers})
        if kind.keeps in ("files", "images"):
            _keep_images(self.dataset, device if kind.engine == "dali" else torch.device("cpu"))
        self._wants_targets = level in ("input+targets", "train-step")
        # Maps for a CPU loader beside a GPU are made on the GPU, as they are for rivals.
        self._batches = self._batch_loader(
            workload.batch_size(level), self._wants_targets and device == workload.device
        )

    def _batch_loader(self, batch_size: int, with_targets: bool) -> BatchLoader:
        tiers = None
        if self._kind.keeps == "tensors":
            layout, cache = entry_layout(self.dataset, with_targets), self.dataset.config.cache_config
            free = FreeMemory.measured(self._device)
            tiers = plan_tiers(layout, len(self.dataset), batch_size, cache, self._device, free)
        engine = Engine(self._kind.engine, self._device, self._num_workers, skip_failures=False)
        return BatchLoader(self.dataset, engine, batch_size, with_targets=with_targets, tiers=tiers)

    @property
    def plan(self) -> EpochPlan:
        """Plan of the next epoch."""
        return self._batches.plan(self._batches.epoch)

    def epoch(self) -> Iterator[InputBatch]:
        """Yields the batches of the next epoch, with its own augmentation where there is any."""
        for batch in self._batches:
            targets = batch.targets
            if targets is None and self._wants_targets:
                targets = self.dataset.make_targets(batch.samples, self._target_device)
            indices = tuple(batch.samples.indices.tolist())
            move_polygons = partial(self.dataset.planner.input_polygons, self.dataset.manifest, batch.samples)
            yield InputBatch(batch.images.to(self._target_device), indices, targets, move_polygons)
        self._batches.set_epoch(self._batches.epoch + 1)

    def decoded(self) -> Iterator[int]:
        if self._shards is not None or self._kind.keeps == "files":
            raise CannotRun(_SAME_DECODE)
        if self._kind.scaled:
            raise CannotRun("decodes each image as far as its resize needs, in one task with it")
        if self._kind.keeps != "nothing":
            raise CannotRun("decodes nothing from the second epoch on")
        if self._kind.engine == "dali":
            return _decoded_by_dali(self.dataset, self._device, self._batches.batch_size)
        if self._decoding is None:
            self._decoding = _decoding_workers(self.dataset, self._batches.batch_size, self._num_workers)
        return iter(self._decoding)

    def close(self) -> None:
        self._batches.close()
        self._decoding = None
        if self._shards is not None:
            self._shards.cleanup()
        gc.collect()  # worker processes end with their loader


def _written_as_shards(
    manifest: Manifest, folder: "TemporaryDirectory[str]", reader: ShardReader
) -> tuple[Manifest, list[str]]:
    """Writes tar shards; returns their manifest and paths."""
    ShardWriter(manifest, Path(folder.name), "benchmark", SHARD_SIZE).write_all()
    try:
        in_shards = load_shards(folder.name, reader)[0]
    except InputError as error:  # the package is missing
        folder.cleanup()
        raise CannotRun(str(error)) from error
    paths = [str(path) for path in Path(folder.name).glob("*.tar")]
    flush(paths)
    return in_shards, paths


def _keep_images(dataset: ValidatedOCRDataset, device: torch.device) -> None:
    free = FreeMemory.measured(device)
    dataset.kept_images = keep_images(
        dataset.config, dataset.manifest, device=device, ram_budget=free.ram // 2, device_budget=free.gpu // 2
    )


def _decoded_by_dali(dataset: ValidatedOCRDataset, device: torch.device, batch_size: int) -> Iterator[int]:
    paths = [np.frombuffer(path.encode(), np.uint8) for path in dataset.manifest.image_paths]
    groups = iter([paths[start : start + batch_size] for start in range(0, len(paths), batch_size)])
    config = dataset.planner.config
    from dali_pipelines.decode import decode_pipeline  # loads DALI, which the other rows do without

    pipeline = decode_pipeline(
        next_batch=lambda: (next(groups),),
        config=config,
        on_gpu=device.type == "cuda",
        is_path=True,
        batch_size=batch_size,
        num_threads=config.num_threads,
        device_id=(device.index or 0) if device.type == "cuda" else None,
        prefetch_queue_depth=config.prefetch_queue_depth,
    )
    for _ in range(0, len(paths), batch_size):
        (images,) = pipeline.run()
        yield len(images)


def _decoding_workers(dataset: ValidatedOCRDataset, batch_size: int, num_workers: int) -> "DataLoader[int]":
    """Returns a loader whose workers answer once per batch, as they do when they send pixels."""
    return DataLoader(
        _DecodedHeights(dataset),  # type: ignore[arg-type]  # indexable, but no Dataset
        batch_size=batch_size,
        num_workers=num_workers,
        collate_fn=len,
        persistent_workers=num_workers > 0,
        multiprocessing_context="fork" if num_workers else None,
    )


class _DecodedHeights:
    """Decodes an image and returns only its height."""

    def __init__(self, dataset: ValidatedOCRDataset) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> int:
        return len(self._dataset.load_image(index).image_array)


class Replay:
    """Repeats one batch: the limit that no loader can exceed."""

    resize_filter = RESIZE_FILTER
    files_read: Sequence[str] = ()

    def __init__(self, workload: Workload, level: Level) -> None:
        loader = OwnLoader(workload, level, LoaderKind("torch"), workload.device, num_workers=0)
        self._num_images = len(loader.dataset)
        batch = next(loader.epoch())
        self._batch = InputBatch(batch.images, batch.indices, batch.targets)
        loader.close()

    def epoch(self) -> Iterator[InputBatch]:
        """Yields as many batches as the other rows."""
        for _ in range(0, self._num_images, len(self._batch.indices)):
            yield self._batch

    def decoded(self) -> Iterator[int]:
        raise CannotRun("decodes nothing")

    def close(self) -> None:
        """Has nothing to end."""
