"""This project's loaders as rows of the benchmark."""

import gc
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import DataLoader

from benchmarks.loaders.config import Level
from benchmarks.loaders.processes import flush
from benchmarks.loaders.setting import Setting
from benchmarks.loaders.source import CannotRun, InputBatch
from dali_pipelines.decode import decode_pipeline
from ocr.cache.budget import FreeMemory, plan_tiers
from ocr.cache.entry import entry_layout
from ocr.datasets.base import ValidatedOCRDataset
from ocr.datasets.kept_images import keep_images
from ocr.datasets.plan import EpochPlan
from ocr.datasets.schemas import CacheConfig, DatasetConfig
from ocr.datasets.shards.images import ShardReader, load_shards
from ocr.datasets.shards.writer import ShardWriter
from ocr.errors import InputError
from ocr.loaders.engines import Engine
from ocr.loaders.loader import BatchLoader
from ocr.polygons import PolygonBatch

Keeps = Literal["nothing", "files", "images", "tensors"]
"""What stays in memory after the first epoch: encoded files in RAM, decoded images or finished tensors on the device."""

_SETTINGS: dict[Keeps, DatasetConfig] = {
    "nothing": DatasetConfig(image_path="-"),
    "files": DatasetConfig(image_path="-", preload_images=True),
    "images": DatasetConfig(image_path="-", cache_config=CacheConfig(cache_decoded_images=True)),
    "tensors": DatasetConfig(image_path="-", cache_config=CacheConfig(cache_transformed_tensors=True)),
}


class OwnLoader:
    """`BatchLoader` with one of the settings that a run can have.

    Args:
        loader: who executes the plan.
        keeps: what the caches hold.
        device: where the loader works; its batches are then moved to the setting's device.
        num_workers: worker processes of loader=torch, threads of DALI.
        shard_reader: read the images from tar shards, which are written first; None: from their files.
    """

    resize_filter = "antialiased triangle"

    def __init__(
        self,
        setting: Setting,
        level: Level,
        loader: Literal["dali", "torch"],
        keeps: Keeps,
        device: torch.device,
        num_workers: int,
        shard_reader: ShardReader | None = None,
    ) -> None:
        if keeps == "tensors" and setting.planner(level).is_random:
            raise CannotRun("training crops differ in each epoch, so finished tensors cannot be kept")
        self.dataset = setting.dataset(level, num_workers, _SETTINGS[keeps])
        self._shards: TemporaryDirectory[str] | None = None
        self.loader, self.device = loader, device
        self.keeps_polygons = False
        """Gather the polygons of each batch of an epoch in `polygons_input`."""
        self.polygons_input: list[PolygonBatch] = []
        self.files_read: Sequence[str] = self.dataset.manifest.image_paths if keeps == "nothing" else ()
        if shard_reader is not None:
            self._read_from_shards(shard_reader, setting.scratch)
        self._target_device = setting.device
        self._keeps = keeps
        self._decoding: Any = None
        self._num_workers = num_workers
        self._set_threads(num_workers)
        self._keep_images()
        batch_size = setting.batch_size(level)
        self._wants_targets = level in ("input+targets", "train-step")
        # Of a loader on the CPU beside a GPU the maps are made on the GPU, as they are for the rows of others.
        with_targets = self._wants_targets and device == setting.device
        tiers = None
        if keeps == "tensors":
            layout, cache = entry_layout(self.dataset, with_targets), self.dataset.config.cache_config
            tiers = plan_tiers(layout, len(self.dataset), batch_size, cache, device, FreeMemory.measured(device))
        self._batches = BatchLoader(
            self.dataset,
            Engine(loader, device, num_workers, skip_failures=False),
            batch_size,
            with_targets=with_targets,
            tiers=tiers,
        )

    @property
    def plan(self) -> EpochPlan:
        """Of the epoch that comes next."""
        return self._batches.plan(self._batches.epoch)

    def epoch(self) -> Iterator[InputBatch]:
        """An epoch of the plan; the one after it has the next augmentation, where there is any."""
        self.polygons_input.clear()
        for batch in self._batches:
            if self.keeps_polygons:
                self.polygons_input.append(batch.polygons_input)
            targets = batch.targets
            if targets is None and self._wants_targets:
                targets = self.dataset.make_targets(batch.samples, batch.polygons_input, self._target_device)
            indices = tuple(sample.index for sample in batch.samples)
            yield InputBatch(batch.images.to(self._target_device), indices, targets)
        self._batches.set_epoch(self._batches.epoch + 1)

    def decoded(self) -> Iterator[int]:
        if self._shards is not None:
            raise CannotRun(_SAME_DECODE)
        if self._keeps != "nothing":
            raise CannotRun("decodes nothing from the second epoch on" if self._keeps != "files" else _SAME_DECODE)
        return self._decoded_by_dali() if self.loader == "dali" else self._decoded_by_workers()

    def close(self) -> None:
        self._batches.close()
        self._decoding = None
        if self._shards is not None:
            self._shards.cleanup()
        gc.collect()  # worker processes end with their loader

    def _read_from_shards(self, reader: ShardReader, scratch: Path) -> None:
        self._shards = TemporaryDirectory(dir=scratch)
        folder = Path(self._shards.name)
        writer = ShardWriter(self.dataset.manifest, folder, "benchmark", SHARD_SIZE)
        for number in range(len(writer)):
            writer.write(number)
        writer.finish()
        try:
            self.dataset.manifest = load_shards(str(folder), reader)[0]
        except InputError as error:  # the package is missing
            self._shards.cleanup()
            raise CannotRun(str(error)) from error
        self.files_read = [str(path) for path in folder.glob("*.tar")]
        flush(self.files_read)

    def _set_threads(self, num_workers: int) -> None:
        planner = self.dataset.planner
        if self.loader == "dali":
            planner.config = planner.config.model_copy(update={"num_threads": num_workers})

    def _keep_images(self) -> None:
        if self._keeps in ("files", "images"):
            free = FreeMemory.measured(self.device)
            kept = keep_images(
                self.dataset.config,
                self.dataset.manifest,
                device=self.device if self.loader == "dali" else torch.device("cpu"),
                ram_budget=free.ram // 2,
                device_budget=free.gpu // 2,
            )
            self.dataset.keep_images(kept)

    def _decoded_by_dali(self) -> Iterator[int]:
        paths = [np.frombuffer(path.encode(), np.uint8) for path in self.dataset.manifest.image_paths]
        size = self._batches.batch_size
        groups = iter([paths[start : start + size] for start in range(0, len(paths), size)])
        config = self.dataset.planner.config
        pipeline = decode_pipeline(
            next_batch=lambda: (next(groups),),
            config=config,
            on_gpu=self.device.type == "cuda",
            is_path=True,
            batch_size=size,
            num_threads=config.num_threads,
            device_id=(self.device.index or 0) if self.device.type == "cuda" else None,
            prefetch_queue_depth=config.prefetch_queue_depth,
        )
        for _ in range(0, len(paths), size):
            (images,) = pipeline.run()
            yield len(images)

    def _decoded_by_workers(self) -> Iterator[int]:
        if self._decoding is None:
            # In batches: a worker answers once for each, as it does when it sends pixels.
            self._decoding = DataLoader(
                _DecodedSizes(self.dataset),  # type: ignore[arg-type]
                batch_size=self._batches.batch_size,
                num_workers=self._num_workers,
                collate_fn=len,
                persistent_workers=self._num_workers > 0,
                multiprocessing_context="fork" if self._num_workers else None,
            )
        yield from self._decoding


_SAME_DECODE = "decodes as the row without it does"
SHARD_SIZE = 256_000_000
"""Bytes; the default of prepare_data.py."""


class _DecodedSizes:
    """Decodes an image and gives back its height."""

    def __init__(self, dataset: ValidatedOCRDataset) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> int:
        return len(self._dataset.load_image(index).image_array)


class Replay:
    """One batch over and over: the limit that no loader can pass."""

    resize_filter = OwnLoader.resize_filter
    files_read: Sequence[str] = ()

    def __init__(self, setting: Setting, level: Level) -> None:
        loader = OwnLoader(setting, level, "torch", "nothing", setting.device, num_workers=0)
        self._num_images = len(loader.dataset)
        self._batch = next(loader.epoch())
        loader.close()

    def epoch(self) -> Iterator[InputBatch]:
        """As many batches as any other row gives."""
        for _ in range(0, self._num_images, len(self._batch.indices)):
            yield self._batch

    def decoded(self) -> Iterator[int]:
        raise CannotRun("decodes nothing")

    def close(self) -> None:
        """Nothing to end."""
