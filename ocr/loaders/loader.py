"""Batches for training and evaluation: planned images from DALI or from PyTorch workers, their polygons and target maps."""

import logging
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol

import torch
from rich.progress import track

from dali_pipelines import memory
from dali_pipelines.loader import DaliLoader
from dali_pipelines.normalize import BatchMemory, normalize_levels
from dali_pipelines.source import ImageBatch, PlannedBatches, PlannedSample, SourceImages
from ocr.cache.budget import TierPlan
from ocr.cache.entry import EntryLayout
from ocr.cache.files import EntryFiles
from ocr.cache.key import recipe_digest
from ocr.cache.statistics import CacheSizes, CacheStatistics
from ocr.cache.store import TensorStore
from ocr.datasets.base import ValidatedOCRDataset
from ocr.datasets.plan import EpochPlan
from ocr.datasets.shards.images import ShardImages
from ocr.datasets.signature import Signature
from ocr.loaders.batch import Batch
from ocr.loaders.cached import CachedSplit
from ocr.loaders.shards import ShardLoader
from ocr.loaders.torch_workers import TorchLoader
from ocr.targets import TargetMaps

log = logging.getLogger(__name__)


class ImageLoader(Protocol):
    """Executes a plan. `DaliLoader` and `TorchLoader` give the same images for the same plan."""

    failures: dict[str, str]

    def batches(self, plan: PlannedBatches, first_step: int = 0) -> Iterator[ImageBatch]: ...

    def release(self) -> None:
        """Frees what the next call of `batches` can build again."""


class BatchLoader:
    """One split, as Lightning iterates it: sized, restartable, resumable in the middle of an epoch.

    Each iteration starts a fresh epoch plan, so a sanity check, `limit_val_batches` or an abandoned loop never changes which
    samples the next one sees. Time the consumer spent waiting is summed in `wait_seconds`.

    Args:
        loader: who executes the plan: DALI, or PyTorch's workers. Where the images are, the data set's manifest knows.
        with_targets: make target maps too.
        tiers: where finished tensors are kept (ocr/cache); None: they are made in each epoch.
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
        with_targets: bool | None = None,
        tiers: TierPlan | None = None,
    ) -> None:
        self.dataset = dataset
        self.batch_size = batch_size
        self.device = device
        self.with_targets = dataset.planner.training if with_targets is None else with_targets
        self.epoch = 0
        self.wait_seconds = 0.0
        self.target_seconds = 0.0
        """The part of `wait_seconds` in which targets were made."""
        self.num_images = 0
        self.failures: dict[str, str] = {}
        """Reason for each file that failed while running."""
        self._loader, self._num_workers, self._skip_failures = loader, num_workers, skip_failures
        self._rank, self._num_ranks = rank, num_ranks
        self._step = 0
        self._resume_at: tuple[int, int] | None = None
        self._levels = tiers is not None and dataset.config.cache_config.dtype == "uint8"
        self._images = self._image_loader()
        self._images_again: ImageLoader | None = None
        self.statistics = CacheStatistics(
            dataset.config.cache_config.log_statistics_every_n, self._cache_sizes, lambda line: log.info("%s", line)
        )
        self.cache = None if tiers is None else self._cached_split(tiers)

    def plan(self, epoch: int) -> EpochPlan:
        """The plan of an epoch on this rank."""
        return EpochPlan(
            self.dataset.manifest,
            self.dataset.planner,
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
        """Starts counting waiting time, images and the epoch's cache accesses anew."""
        self.wait_seconds, self.target_seconds, self.num_images = 0.0, 0.0, 0
        self.statistics.start_epoch()

    def state_dict(self) -> dict[str, int]:
        """Where this loader is: all that a resumed run needs, since the plan is a function of it."""
        return {"epoch": self.epoch, "step": self._step}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """The next iteration goes on where `state` was taken."""
        self._resume_at = state["epoch"], state["step"]
        self.epoch = state["epoch"]

    def __iter__(self) -> Iterator[Batch]:
        started = time.perf_counter()
        plan = self.plan(self.epoch)
        self._step = self._first_step(len(plan))
        batches = self._loaded(plan) if self.cache is None else self._cached(self.cache)
        while self._step < len(plan):
            batch = next(batches)
            self.num_images += sum(not sample.is_padding for sample in batch.samples)
            self._step += 1
            if self._step == len(
                plan
            ):  # now: Lightning, which knows the length, does not come back after the last batch
                self._finish_epoch()
            self.wait_seconds += time.perf_counter() - started
            yield batch
            started = time.perf_counter()

    @property
    def cache_bytes(self) -> dict[str, int]:
        """Bytes that the caches of this split take, by tier: gpu, ram, disk."""
        num_bytes = {"gpu": 0, "ram": 0}
        if self.cache is not None:
            num_bytes |= self.cache.store.num_bytes
        kept = self.dataset.kept_images
        if kept is not None:
            num_bytes["ram"] += kept.file_bytes
            num_bytes["gpu" if kept.device.type == "cuda" else "ram"] += kept.pixel_bytes
        maps = self.dataset.offline_maps
        if maps is not None:
            num_bytes["ram"] += maps.num_bytes
        return num_bytes

    def fill_cache(self) -> None:
        """Makes all entries of the tensor cache now, with a progress bar."""
        for _ in track(self, f"Normalising {len(self.dataset)} images", disable=not sys.stderr.isatty()):
            pass

    def close(self) -> None:
        """Ends threads and frees the pipelines."""
        self._images.release()
        if self._images_again is not None:
            self._images_again.release()
        if self.cache is not None:
            self.cache.close()
        images = self.dataset.manifest.images
        if isinstance(images, ShardImages):
            images.close()

    def _first_step(self, num_steps: int) -> int:
        resume_at, self._resume_at = self._resume_at, None
        if resume_at is None or resume_at[0] != self.epoch or resume_at[1] >= num_steps:
            return 0
        return resume_at[1]

    def _loaded(self, plan: EpochPlan) -> Iterator[Batch]:
        """Batches made now, with their targets. What counts as a hit is an image that was in memory before the epoch."""
        kept = self.dataset.kept_images
        held = kept.indices() if kept is not None else set()
        for batch in self._images.batches(plan, self._step):
            if kept is not None:
                real = [sample.index for sample in batch.samples if not sample.is_padding]
                num_hits = sum(index in held for index in real)
                self.statistics.count(hits=num_hits, misses=len(real) - num_hits)
            targets = self._targets(batch.samples) if self.with_targets else None
            yield self._batch(batch.images, batch.samples, targets)

    def _cached(self, cache: CachedSplit) -> Iterator[Batch]:
        """Batches of entries, made where they are not kept."""
        config = self.dataset.planner.config
        dtype = torch.float16 if config.wants_float16(self.device.type) else torch.float32
        reused = BatchMemory()
        for tensors, samples in cache.batches(self.epoch, self._step):
            images = tensors["images"]
            if self._levels:
                out = reused.empty(images.shape, dtype) if images.device.type == "cpu" else None
                images = normalize_levels(images, config.mean, config.std, out, dtype)
            yield self._batch(images, samples, cache.store.layout.unpack_targets(tensors))

    def _finish_epoch(self) -> None:
        """What is left to do when the last batch was made."""
        if self.dataset.offline_maps is not None:
            self.dataset.offline_maps.warn_of_fallbacks()
        if self.cache is None:
            return
        self.cache.store.flush()
        kept, maps, resident = self.dataset.kept_images, self.dataset.offline_maps, self.cache.resident_samples
        if kept is not None:
            kept.drop_files(resident)
        if len(resident) == len(self.cache):  # nothing will be made again
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)  # once: the last batch may still be on its way out of DALI
            self._images.release()
            memory.release_unused(self.device)
            if kept is not None:
                kept.clear()
            if maps is not None:
                maps.clear()

    def _forget_changed(self, signatures: Mapping[int, Signature | None]) -> None:
        """Images in memory whose files have changed are read anew, by new worker processes too."""
        kept = self.dataset.kept_images
        if kept is not None and kept.forget_changed(signatures):
            self._images.release()
            if self._images_again is not None:
                self._images_again.release()

    def _batch(self, images: torch.Tensor, samples: tuple[PlannedSample, ...], targets: TargetMaps | None) -> Batch:
        is_padding = [sample.is_padding for sample in samples]
        if targets is not None and any(is_padding):
            targets = targets.blanked(torch.tensor(is_padding))
        return Batch(images, samples, targets, self.dataset)

    def _targets(self, samples: Sequence[PlannedSample]) -> TargetMaps:
        started = time.perf_counter()
        polygons = self.dataset.planner.input_polygons(self.dataset.manifest, samples)
        maps = self.dataset.make_targets(samples, polygons, self.device)
        self.target_seconds += time.perf_counter() - started
        return maps

    def _image_loader(self) -> ImageLoader:
        dataset, images = self.dataset, self.dataset.manifest.images
        loader: ImageLoader
        if self._loader == "dali":
            settings: dict[str, Any] = {
                "training": dataset.planner.training,
                "batch_size": self.batch_size,
                "device": self.device,
                "skip_failures": self._skip_failures,
                "levels": self._levels,
            }
            kept, largest = dataset.kept_images, dataset.manifest.largest_stored
            if isinstance(images, ShardImages):
                loader = ShardLoader(images, dataset.planner.config, kept=kept, largest_stored=largest, **settings)
            else:
                files = SourceImages(dataset.manifest.image_paths, kept, largest)
                loader = DaliLoader(files, dataset.planner.config, **settings)
        else:
            loader = TorchLoader(
                dataset,
                num_workers=self._num_workers,
                device=self.device,
                skip_failures=self._skip_failures,
                levels=self._levels,
            )
        loader.failures = self.failures
        return loader

    def _make_again(self, plan: PlannedBatches) -> Iterator[ImageBatch]:
        if self._images_again is None:
            self._images_again = self._image_loader()
        return self._images_again.batches(plan)

    def _cached_split(self, tiers: TierPlan) -> CachedSplit:
        dataset, config = self.dataset, self.dataset.config.cache_config
        layout = entry_layout(dataset, self.with_targets)
        files = EntryFiles(config.directory, tiers.disk_budget) if config.directory is not None else None
        return CachedSplit(
            dataset.manifest,
            self.plan(0),
            TensorStore(layout, tiers, self.device, files),
            recipe=recipe_digest(
                dataset.planner.config,
                dataset.targets,
                layout,
                loader=self._loader,
                device=self.device.type,
                device_name=torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else None,
                image_loading=dataset.config.image_loading_config.model_dump(),
                predecoded=dataset.config.preload_images and config.image_format == "decoded",
            ),
            images=self._images.batches,
            images_again=self._make_again,
            make_targets=self._targets if self.with_targets else None,
            on_signatures=self._forget_changed,
            statistics=self.statistics,
            verify=config.verify,
            std=1.0 if self._levels else min(dataset.planner.config.std),
            seed=dataset.planner.seed,
        )

    def _cache_sizes(self) -> CacheSizes:
        kept, maps = self.dataset.kept_images, self.dataset.offline_maps
        return CacheSizes(
            images=kept.num_images if kept is not None else 0,
            tensors=self.cache.store.num_kept if self.cache is not None else 0,
            maps=maps.num_kept if maps is not None else 0,
        )


def entry_layout(dataset: ValidatedOCRDataset, with_targets: bool) -> EntryLayout:
    """What the tensor cache keeps of each sample of this split."""
    size = dataset.planner.input_size
    map_size = size // dataset.targets.map_stride if with_targets else None
    return EntryLayout(size, map_size, dataset.config.cache_config.dtype)
