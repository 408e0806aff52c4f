"""Makes batches from scratch: images from an image loader, target maps from their polygons."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from dali_pipelines import memory
from dali_pipelines.signature import Signature
from dali_pipelines.source import ImageBatch, PlannedBatch, PlannedBatches
from ocr.cache_statistics import CacheStatistics
from ocr.datasets.base import ValidatedOCRDataset
from ocr.datasets.shards.images import ShardImages
from ocr.loaders.batch import Batch
from ocr.loaders.engines import Engine, ImageLoader, image_loader
from ocr.loaders.read_guard import ReadGuard
from ocr.targets.target_maps import TargetMaps


@dataclass
class ChosenBatches:
    """A plan that consists of the given batches."""

    epoch: int
    chosen: Sequence[PlannedBatch]
    following: PlannedBatches | None = None

    def __len__(self) -> int:
        return len(self.chosen)

    def batch(self, step: int) -> PlannedBatch:
        return self.chosen[step]


class FreshBatches:
    """Executes plans: loads images, makes targets. It makes what a cached split lacks too (ocr/loaders/cached.py).

    Args:
        batch_size: largest batch of a plan.
        with_targets: make target maps too.
        levels: images are uint8 levels, not normalised; evaluation only.
        statistics: receives a hit for each image that was in memory before the epoch, and a miss for each other one.
    """

    def __init__(
        self,
        dataset: ValidatedOCRDataset,
        engine: Engine,
        batch_size: int,
        *,
        with_targets: bool,
        levels: bool,
        statistics: CacheStatistics,
    ) -> None:
        self.failures: dict[str, str] = {}
        """Reason for each file that failed during the run, by path."""
        self.target_seconds = 0.0
        """Time spent making targets."""
        self._dataset, self._engine, self._batch_size = dataset, engine, batch_size
        self._with_targets, self._levels = with_targets, levels
        self._statistics = statistics
        self._target_stream = torch.cuda.Stream(engine.device) if engine.device.type == "cuda" else None
        self._images = self._image_loader()
        self._second: ImageLoader | None = None
        """Makes single samples while `_images` is in the middle of a plan; built on first use."""
        self._guard = ReadGuard(dataset, batch_size, self._load_now, self.failures)

    def batches(self, plan: PlannedBatches) -> Iterator[Batch]:
        """Yields the batches of `plan`."""
        kept = self._dataset.kept_images
        in_memory = kept.in_memory() if kept is not None else None
        for batch in self.make(plan):
            if in_memory is not None:
                is_hit = in_memory[batch.samples.indices[~batch.samples.is_padding]]
                num_hits = int(np.count_nonzero(is_hit))
                self._statistics.count(hits=num_hits, misses=len(is_hit) - num_hits)
            yield batch.with_padding_blanked()

    def make(self, plan: PlannedBatches) -> Iterator[Batch]:
        """Yields the same batches as `batches`, but counts nothing, and padded samples keep their target masks.

        Their cache entries serve real samples too.
        """
        for images in self._guard.watch(self._images.batches, plan):
            yield self._with_maps(images)

    def make_now(self, samples: PlannedBatch) -> Batch:
        """Returns one batch from a second image loader, since `make` may be in the middle of a plan."""
        return self._with_maps(self._load_now(samples))

    def forget_changed(self, signatures: Mapping[int, Signature | None]) -> None:
        """Drops images in memory whose files have changed, and ends the worker processes that inherited them.

        Args:
            signatures: present signature of each file, by position in the manifest; None for a missing file.
        """
        kept = self._dataset.kept_images
        if kept is not None and kept.forget_changed(signatures):
            self._images.release()
            if self._second is not None:
                self._second.release()

    def drop_inputs(self, indices: Sequence[int]) -> None:
        """Drops the encoded files and the target maps of images whose entries are in memory."""
        kept, maps = self._dataset.kept_images, self._dataset.offline_maps
        if kept is not None:
            kept.drop_files(indices)
        if maps is not None:
            maps.drop(indices)

    def release(self) -> None:
        """Frees the pipeline and the images in memory, once every sample is cached. A later call builds the pipeline again.

        The second image loader stays: it makes the samples that verification compares with their entries.
        """
        device, kept = self._engine.device, self._dataset.kept_images
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # the last batch may still be on its way out of DALI
        self._images.release()
        memory.release_unused(device)
        if kept is not None:
            kept.clear()

    def close(self) -> None:
        """Ends threads and processes and frees the pipelines."""
        self._images.release()
        if self._second is not None:
            self._second.release()
        images = self._dataset.manifest.images
        if isinstance(images, ShardImages):
            images.close()

    def _load_now(self, samples: PlannedBatch) -> ImageBatch:
        if self._second is None:
            self._second = self._image_loader()
        (images,) = self._second.batches(ChosenBatches(0, [samples]))
        return images

    def _image_loader(self) -> ImageLoader:
        return image_loader(
            self._dataset, self._engine, batch_size=self._batch_size, levels=self._levels, failures=self.failures
        )

    def _with_maps(self, made: ImageBatch) -> Batch:
        dataset, targets = self._dataset, None
        if self._with_targets:
            started = time.perf_counter()
            targets = self._make_targets(made.samples)
            self.target_seconds += time.perf_counter() - started
        return Batch(made.images, made.samples, targets, dataset)

    def _make_targets(self, samples: PlannedBatch) -> TargetMaps:
        """Returns the maps, ready for the consumer's stream.

        On a GPU they are drawn in a stream of their own, beside the step before, whose queued work they need not wait for: they
        depend on nothing that the GPU has computed.
        """
        device = self._engine.device
        if self._target_stream is None:
            return self._dataset.make_targets(samples, device)
        with torch.cuda.stream(self._target_stream):
            targets = self._dataset.make_targets(samples, device)
        consumer = torch.cuda.current_stream(device)
        consumer.wait_stream(self._target_stream)
        # The other stream owns the memory of the maps: it must not reuse it before the consumer's work is done.
        for maps in (targets.shrink_map, targets.shrink_mask, targets.thresh_map, targets.thresh_mask):
            maps.record_stream(consumer)
        return targets
