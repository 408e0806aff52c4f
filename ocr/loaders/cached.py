"""A deterministic split, served from the tensor cache; what is not kept is made by the loader, in the same order.

keys of this epoch -> what is kept? -- resident: a view
                                    -- on disk:  read ahead of the batch before it
                                    -- neither:  the loader's next images, packed, kept where there is room
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from dali_pipelines.source import ImageBatch, PlannedBatches, PlannedSample
from ocr.cache.entry import Tensors
from ocr.cache.key import ImageDigests, entry_key, sample_digest
from ocr.cache.statistics import CacheStatistics
from ocr.cache.store import Keep, Key, StoredBatch, TensorStore
from ocr.datasets.manifest import Manifest
from ocr.datasets.signature import Signature
from ocr.errors import CacheError
from ocr.targets import TargetMaps

log = logging.getLogger(__name__)

VERIFIED_LEVELS = {"cpu": 0.0, "cuda": 4.0}
"""How far an image made again may be from the kept one, in levels. GPU decoders may decode a file by another engine."""

ImageSource = Callable[[PlannedBatches], Iterator[ImageBatch]]
"""Executes a plan from its first step on."""


@dataclass
class _Plan:
    """Batches of our own choice, as loaders take them."""

    epoch: int
    batches: Sequence[Sequence[PlannedSample]]

    def __len__(self) -> int:
        return len(self.batches)

    def batch(self, step: int) -> Sequence[PlannedSample]:
        return self.batches[step]


class CachedSplit:
    """One rank's share of a split, batch by batch.

    Args:
        manifest: of the split.
        plan: of any epoch; a deterministic plan is the same in all.
        store: where entries are kept; one for each place of the plan.
        recipe: digest of what all entries share.
        images: executes plans; called again for each epoch.
        images_again: the same through a pipeline of its own: makes single entries while `images` is under way.
        make_targets: the maps of some samples, on the device; None where none are kept.
        on_signatures: told the signature of each file, by position in the manifest, before an epoch.
        statistics: counts each sample served.
        verify: entries made again and compared in each epoch.
        std: levels a unit of a normalised image, for the tolerance of `verify`; 1 where levels are kept.
        seed: which entries are verified.
    """

    def __init__(
        self,
        manifest: Manifest,
        plan: PlannedBatches,
        store: TensorStore,
        *,
        recipe: bytes,
        images: ImageSource,
        images_again: ImageSource,
        make_targets: Callable[[Sequence[PlannedSample]], TargetMaps] | None,
        on_signatures: Callable[[Mapping[int, Signature | None]], None],
        statistics: CacheStatistics,
        verify: int,
        std: float,
        seed: int,
    ) -> None:
        self.store = store
        self.statistics = statistics
        self._manifest, self._recipe = manifest, recipe
        self._steps = [tuple(plan.batch(step)) for step in range(len(plan))]
        starts = np.cumsum([0, *(len(samples) for samples in self._steps)]).tolist()
        self._entries = [range(start, stop) for start, stop in pairwise(starts)]
        self._samples = [sample for samples in self._steps for sample in samples]
        self._sample_digests = [sample_digest(manifest, sample) for sample in self._samples]
        self._digests = ImageDigests(manifest.images, [sample.index for sample in self._samples])
        self._images, self._images_again = images, images_again
        self._make_targets, self._on_signatures = make_targets, on_signatures
        self._verify, self._std, self._seed = verify, std, seed
        self._failed: dict[int, Key] = {}
        """Entries whose file failed, and their keys then: black, and marked as padding for the rest of the run."""
        self._reader = ThreadPoolExecutor(1, "cache-reader")
        self._ahead: Future[StoredBatch] | None = None
        """The batch that is being read."""

    def __len__(self) -> int:
        """Number of entries."""
        return len(self._samples)

    @property
    def resident_samples(self) -> list[int]:
        """Positions in the manifest, one for each entry that is valid in memory."""
        return [self._samples[entry].index for entry in self.store.resident_entries]

    def refresh(self) -> None:
        """Looks for changed files; what was kept of them is not valid any more."""
        self._digests.refresh()
        self._on_signatures(
            {sample.index: self._digests.signature(entry) for entry, sample in enumerate(self._samples)}
        )
        keys: list[Key] = []
        for entry, sample in enumerate(self._sample_digests):
            image = self._digests.digest(entry)
            keys.append(None if image is None else entry_key(self._recipe, sample, image))
        self._failed = {entry: key for entry, key in self._failed.items() if keys[entry] == key}
        self.store.refresh(keys)
        self._keys = keys

    def batches(self, epoch: int, first_step: int = 0) -> Iterator[tuple[Tensors, tuple[PlannedSample, ...]]]:
        """The batches of an epoch from `first_step` on: entries on the device, (B, ...), and their samples.

        Raises:
            CacheError: `verify` found an entry that differs.
        """
        self._settle()
        self.refresh()
        self._verify_some(epoch)
        steps = range(first_step, len(self._steps))
        to_make = [[self._samples[e] for e in self._entries[step] if not self.store.has(e)] for step in steps]
        made = self._images(_Plan(epoch, [samples for samples in to_make if samples]))
        for stored, expected in zip(self._read_ahead(steps), to_make, strict=True):
            samples = [self._samples[entry] for entry in stored.entries]
            self._count(stored, samples)
            tensors = self._completed(stored, next(made) if expected else None)
            yield (
                tensors,
                tuple(
                    sample.as_failed() if entry in self._failed else sample
                    for entry, sample in zip(stored.entries, samples, strict=True)
                ),
            )

    def _settle(self) -> None:
        """Waits for what an epoch that was left early is still reading and writing: it would take old entries for new."""
        if self._ahead is not None:
            self._ahead.result()
            self._ahead = None
        self.store.flush()

    def close(self) -> None:
        """Ends the threads."""
        self._reader.shutdown()
        self.store.close()

    def _read_ahead(self, steps: range) -> Iterator[StoredBatch]:
        """What is kept of each batch; reading the next begins before this one is used."""
        store = self.store
        for step in steps:
            stored = store.read(self._entries[step]) if self._ahead is None else self._ahead.result()
            self._ahead = None
            if step + 1 in steps and not store.is_view(self._entries[step + 1]):
                self._ahead = self._reader.submit(store.read, self._entries[step + 1])
            yield stored

    def _completed(self, stored: StoredBatch, expected: ImageBatch | None) -> Tensors:
        """The whole batch on the device: `expected` fills the rows that were known to be missing."""
        tensors: Tensors | None = None
        if stored.errors:
            self._repair(stored)
        if expected is not None:
            tensors = self._fill(stored, [row for row in stored.missing if row not in stored.errors], expected)
        return self.store.upload(stored.tensors) if tensors is None else tensors

    def _repair(self, stored: StoredBatch) -> None:
        """Makes entries again that turned out to be bad when they were read."""
        rows = list(stored.errors)
        for row, error in stored.errors.items():
            entry = stored.entries[row]
            log.warning("cache: %s; %s is made again", error, self._filename(entry))
            self.store.forget(entry)
        self._fill(stored, rows, self._make_now([self._samples[stored.entries[row]] for row in rows]))

    def _fill(self, stored: StoredBatch, rows: list[int], images: ImageBatch) -> Tensors:
        entries = [stored.entries[row] for row in rows]
        keep = [self._may_keep(entry, sample) for entry, sample in zip(entries, images.samples, strict=True)]
        return self.store.fill(StoredBatch(stored.entries, stored.tensors, rows), self._packed(images), keep)

    def _may_keep(self, entry: int, made: PlannedSample) -> Keep:
        if made.has_failed:
            self._failed[entry] = self._keys[entry]
            return Keep.IN_MEMORY
        return Keep.EVERYWHERE if self._digests.is_unchanged(entry) else Keep.NOT

    def _packed(self, images: ImageBatch) -> Tensors:
        targets = None if self._make_targets is None else self._make_targets(images.samples)
        return self.store.layout.pack(images.images, targets)

    def _make_now(self, samples: Sequence[PlannedSample]) -> ImageBatch:
        (images,) = self._images_again(_Plan(0, [samples]))
        return images

    def _count(self, stored: StoredBatch, samples: Sequence[PlannedSample]) -> None:
        num_made = sum(not samples[row].is_padding for row in stored.missing)
        num_real = sum(not sample.is_padding for sample in samples)
        self.statistics.count(hits=num_real - num_made, misses=num_made)

    def _filename(self, entry: int) -> str:
        return self._manifest.filenames[self._samples[entry].index]

    def _verify_some(self, epoch: int) -> None:
        """Makes some entries again and compares them with what would be served."""
        if not self._verify:
            return
        kept = [entry for entry in range(len(self._samples)) if self.store.has(entry) and entry not in self._failed]
        rng = np.random.Generator(np.random.Philox(key=[self._seed, epoch]))
        chosen = sorted(rng.choice(kept, min(self._verify, len(kept)), replace=False).tolist())
        for entry in chosen:
            stored = self.store.read(range(entry, entry + 1))
            for error in stored.errors.values():
                raise CacheError(f"verify: {self._filename(entry)}: {error}. {self._advice()}")
            made = self._packed(self._make_now([self._samples[entry]]))
            for name, tensor in self.store.upload(stored.tensors).items():
                self._compare(entry, name, tensor, made[name])

    def _compare(self, entry: int, name: str, kept: torch.Tensor, made: torch.Tensor) -> None:
        tolerance = VERIFIED_LEVELS[kept.device.type] / self._std if name == "images" else 0.0
        difference = (kept.float() - made.float()).abs()
        wrong = ~(difference <= tolerance)  # NaN is wrong too
        if wrong.any():
            raise CacheError(
                f"verify: {self._filename(entry)}: {int(wrong.sum())} of {wrong.numel()} values of its cached {name} differ from "
                f"what the file gives now, by up to {difference.nan_to_num(torch.inf).max():.4g}. {self._advice()}"
            )

    def _advice(self) -> str:
        if self.store.files is None:
            return "Something wrote into the cache's memory; start the run again"
        return (
            f"Delete the folder {self.store.files.directory}, or find out what wrote into it, and start the run again"
        )
