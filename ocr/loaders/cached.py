"""Serves batches of a deterministic split from the tensor cache. Missing samples are made, in the same order, and kept.

files, annotations --> keys of this epoch --> entry is valid in memory    a view
                                              entry is valid on disk      read ahead of its batch
                                              no entry                    FreshBatches.make, packed, kept where there is room
                                              file of the entry is bad    FreshBatches.make_now, replaced
"""

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import pairwise, zip_longest

import numpy as np
import torch

from dali_pipelines.normalize import BatchMemory, input_dtype, normalize_levels
from dali_pipelines.source import PlannedBatch, PlannedBatches
from ocr.cache.entry import Tensors
from ocr.cache.key import ImageDigests, entry_key, sample_digest
from ocr.cache.store import Key, StoredBatch, TensorStore
from ocr.cache_statistics import CacheStatistics
from ocr.datasets.base import ValidatedOCRDataset
from ocr.loaders.batch import Batch
from ocr.loaders.fresh import ChosenBatches, FreshBatches
from ocr.loaders.verify import choose_entries, verify_entry

log = logging.getLogger(__name__)


class CachedBatches:
    """Serves one rank's share of a split. Entry n of the store belongs to the n-th sample of the plan.

    Args:
        plan: the plan of any epoch; a deterministic plan is the same in all.
        store: holds as many entries as the plan has samples.
        maker: makes the samples that the store does not hold.
        recipe: digest of everything that all entries share (ocr/cache/key.py).
        statistics: receives a hit or a miss for each sample.
    """

    def __init__(
        self,
        dataset: ValidatedOCRDataset,
        plan: PlannedBatches,
        store: TensorStore,
        maker: FreshBatches,
        *,
        recipe: bytes,
        statistics: CacheStatistics,
    ) -> None:
        self.store = store
        self._dataset, self._maker = dataset, maker
        self._recipe, self._statistics = recipe, statistics
        batches = [plan.batch(step) for step in range(len(plan))]
        self._samples = PlannedBatch.concatenate(batches)
        starts = np.cumsum([0, *map(len, batches)]).tolist()
        self._entries = [range(start, stop) for start, stop in pairwise(starts)]
        self._digests = ImageDigests(
            dataset.manifest.images, self._samples.indices.tolist(), by_content=store.files is not None
        )
        self._keys: list[Key] = [None] * len(self._samples)
        self._damaged: set[int] = set()
        """Entries whose files are damaged: black and marked as failed until the key changes."""
        # Pinned memory asks events of earlier copies whether they have ended. See `HostCopy.wait` about the device of a thread.
        take_device = partial(torch.cuda.set_device, store.device) if store.device.type == "cuda" else None
        self._reader = ThreadPoolExecutor(1, "cache-reader", take_device)
        self._ahead: Future[StoredBatch] | None = None
        """The batch that is being read ahead."""
        self._is_maker_released = False
        self._iteration: object | None = None
        """Stands for the iteration that may go on; None: none may."""

    def batches(self, plan: PlannedBatches) -> Iterator[Batch]:
        """Yields the batches of an epoch, until `close` or the next call.

        Args:
            plan: its epoch chooses the entries to verify; its samples are those of every epoch, or their last batches if the
                others were done before.

        Raises:
            CacheError: an entry chosen for verification differs from the sample made now.
        """
        self._iteration = iteration = object()
        self._wait_for_last_epoch()
        self._refresh_keys()
        self._verify_some(plan.epoch)
        served = self._entries[len(self._entries) - len(plan) :]
        missing = [[entry for entry in entries if not self.store.has(entry)] for entries in served]
        to_make = [self._samples.select(entries) for entries in missing if entries]
        made = self._maker.make(ChosenBatches(plan.epoch, to_make))
        memory = BatchMemory()
        for stored, entries in zip(self._read_ahead(served), missing, strict=True):
            self._count(stored)
            tensors, failed = self._complete(stored, next(made) if entries else None)
            yield self._batch(stored.entries, tensors, failed, memory)
            if self._iteration is not iteration:
                return

    def finish_epoch(self) -> None:
        """Waits for pending writes, and frees everything that served only to make entries that are now in memory."""
        self.store.flush()
        if self._is_maker_released:
            return
        resident = self.store.resident_entries
        self._maker.drop_inputs(self._samples.indices[resident].tolist())
        if len(resident) == len(self._samples):
            # Once, not every epoch: on a GPU it waits for the device and empties the allocators.
            self._maker.release()
            self._is_maker_released = True

    def close(self) -> None:
        """Ends the iteration and the threads that read and write entries."""
        self._iteration = None
        self._reader.shutdown()
        self.store.close()

    def _wait_for_last_epoch(self) -> None:
        """Waits for reads and writes of an abandoned epoch, which would otherwise be taken for this epoch's."""
        if self._ahead is not None:
            self._ahead.result()
            self._ahead = None
        self.store.flush()

    def _refresh_keys(self) -> None:
        """Computes the keys of changed files, and drops their entries and their images in memory."""
        changed = self._digests.refresh()
        indices = self._samples.indices[changed].tolist()
        signatures = [self._digests.signature(entry) for entry in changed]
        self._maker.forget_changed(dict(zip(indices, signatures, strict=True)))
        for entry in changed:
            before, self._keys[entry] = self._keys[entry], self._key(entry)
            if self._keys[entry] != before:
                self._damaged.discard(entry)
        self.store.refresh(self._keys)

    def _key(self, entry: int) -> Key:
        image = self._digests.digest(entry)
        if image is None or self.store.files is None:
            return image
        return entry_key(self._recipe, sample_digest(self._dataset.manifest, self._samples, entry), image)

    def _verify_some(self, epoch: int) -> None:
        count, seed = self._dataset.config.cache_config.verify, self._dataset.planner.seed
        if not count:
            return
        kept = [entry for entry in range(len(self._samples)) if self.store.has(entry) and entry not in self._damaged]
        for entry in choose_entries(kept, count, seed=seed, epoch=epoch):
            verify_entry(self.store, entry, self._samples.select([entry]), self._maker, self._dataset)

    def _read_ahead(self, served: Sequence[range]) -> Iterator[StoredBatch]:
        """Yields the stored part of each batch of entries. The next one is read while this one is used."""
        store = self.store
        for entries, following in zip_longest(served, served[1:]):
            stored = store.read(entries) if self._ahead is None else self._ahead.result()
            self._ahead = None
            if following is not None and not store.is_view(following):
                self._ahead = self._reader.submit(store.read, following)
            yield stored

    def _count(self, stored: StoredBatch) -> None:
        is_real = ~self._samples.is_padding[stored.entries.start : stored.entries.stop]
        num_misses = int(is_real[list(stored.missing)].sum())
        self._statistics.count(hits=int(is_real.sum()) - num_misses, misses=num_misses)

    def _complete(self, stored: StoredBatch, made: Batch | None) -> tuple[Tensors, list[int]]:
        """Returns the whole batch on the device, and its rows whose files failed: their images are black.

        Args:
            made: fills the rows that were known to be missing.
        """
        for row, error in stored.errors.items():
            entry = stored.entries[row]
            filename = self._dataset.manifest.filenames[int(self._samples.indices[entry])]
            log.warning("cache: %s; recomputing the entry of %s", error, filename)
            self.store.forget(entry)
        failed: list[int] = []
        if stored.errors:
            bad = list(stored.errors)
            made_now = self._maker.make_now(self._samples.select([stored.entries[row] for row in bad]))
            _, failed = self._fill(stored, bad, made_now)
        if made is None:
            return self.store.upload(stored.tensors), failed
        tensors, also_failed = self._fill(stored, [row for row in stored.missing if row not in stored.errors], made)
        return tensors, failed + also_failed

    def _fill(self, stored: StoredBatch, rows: Sequence[int], made: Batch) -> tuple[Tensors, list[int]]:
        """Returns the batch on the device with these rows filled, and those of them whose files failed.

        The black image of a damaged file is kept in memory. Any other failed entry is made again in the next epoch, when its file
        may be readable.
        """
        self._is_maker_released = False
        failed, keep = [], []
        for row, has_failed in zip(rows, made.samples.has_failed.tolist(), strict=True):
            entry = stored.entries[row]
            self._damaged.discard(entry)
            if has_failed:
                failed.append(row)
                if self._is_damaged(entry):
                    self._damaged.add(entry)
            keep.append((entry in self._damaged or not has_failed) and self._digests.is_unchanged(entry))
        packed = self.store.layout.pack(made.images, made.targets)
        missing = StoredBatch(stored.entries, stored.tensors, list(rows))
        return self.store.fill(missing, packed, keep, memory_only=self._damaged), failed

    def _is_damaged(self, entry: int) -> bool:
        """Returns whether what the file of an entry holds is at fault, and not the reading of it."""
        try:
            self._dataset.load_image(int(self._samples.indices[entry]))
        except (OSError, ValueError) as error:
            return isinstance(error, ValueError)
        return False

    def _batch(self, entries: range, tensors: Tensors, failed: Sequence[int], memory: BatchMemory) -> Batch:
        """Returns the batch of these entries, normalised here if the cache holds levels."""
        config, device, layout = self._dataset.planner.config, self.store.device, self.store.layout
        images = tensors["images"]
        if layout.image_dtype == "uint8":
            dtype = input_dtype(config, device.type)
            out = memory.empty(images.shape, dtype) if images.device.type == "cpu" else None
            images = normalize_levels(images, config.mean, config.std, out, dtype)
        damaged = [row for row, entry in enumerate(entries) if entry in self._damaged]
        samples = self._samples.select(slice(entries.start, entries.stop)).with_failed([*failed, *damaged])
        batch = Batch(images, samples, layout.unpack_targets(tensors), self._dataset)
        return batch.with_padding_blanked()
