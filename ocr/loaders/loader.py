"""The loader that Lightning iterates: one split on one rank, its batches fresh or from the tensor cache."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import partial

import torch

from ocr.cache.budget import TierPlan
from ocr.cache.entry import entry_layout
from ocr.cache.files import EntryFiles
from ocr.cache.key import recipe_digest
from ocr.cache.store import TensorStore
from ocr.cache_statistics import CacheSizes, CacheStatistics
from ocr.datasets.base import ValidatedOCRDataset
from ocr.datasets.plan import EpochPlan
from ocr.device_stages import DeviceStages
from ocr.loaders.batch import Batch
from ocr.loaders.cached import CachedBatches
from ocr.loaders.engines import Engine
from ocr.loaders.fresh import FreshBatches
from ocr.progress import followed

_WAITING = "waiting"


class BatchLoader:
    """The batches of one split on one rank: sized, restartable, resumable in the middle of an epoch.

    Each iteration starts the epoch's plan from the beginning, so a sanity check, `limit_val_batches` or an abandoned loop never
    changes the samples of the next iteration.

    Args:
        engine: decodes and augments the images.
        batch_size: samples in a batch; the last batch may be smaller.
        rank: number of this process, from 0, among the processes that share the split.
        num_ranks: number of these processes.
        with_targets: make target maps; None: for training only.
        tiers: sizes of the tensor cache (ocr/cache); None: no tensor cache, every epoch makes its inputs and targets.
    """

    def __init__(
        self,
        dataset: ValidatedOCRDataset,
        engine: Engine,
        batch_size: int,
        *,
        rank: int = 0,
        num_ranks: int = 1,
        with_targets: bool | None = None,
        tiers: TierPlan | None = None,
    ) -> None:
        self.dataset = dataset
        self.batch_size = batch_size
        self.epoch = 0
        self.num_epochs = 0
        """Epochs of the run; 0: not known. After every epoch but the last the next one is expected, so the
        image loader may prepare the next epoch's first batches during the last ones of an epoch."""
        self.num_images = 0
        """Number of images handed out, without padding."""
        self._rank, self._num_ranks, self._device = rank, num_ranks, engine.device
        self._stages = DeviceStages()
        self._step = 0
        self._resume_at: tuple[int, int] | None = None
        """Epoch and samples of it, over all ranks, that were trained before."""
        self._resumed = 0, 0
        """Samples trained before this iteration, over all ranks, and the step at which the iteration began."""
        self.statistics = CacheStatistics(dataset.config.cache_config.log_statistics_every_n, self._cache_sizes)
        with_targets = dataset.planner.training if with_targets is None else with_targets
        # A cached split needs polygons only for the entries that are missing, and finds them then.
        self._add_text = partial(dataset.with_text, device=engine.device) if with_targets and tiers is None else None
        self._fresh = FreshBatches(
            dataset,
            engine,
            batch_size,
            with_targets=with_targets,
            levels=tiers is not None and dataset.config.cache_config.dtype == "uint8",
            statistics=self.statistics,
        )
        self.failures = self._fresh.failures
        """Reason for each file that failed during the run, by path."""
        self.cache = None if tiers is None else self._open_cache(tiers, engine, with_targets)

    def plan(self, epoch: int, num_done: int = 0) -> EpochPlan:
        """Returns the plan of an epoch on this rank, without the first `num_done` samples of all ranks."""
        return EpochPlan(
            self.dataset.manifest,
            self.dataset.planner,
            epoch=epoch,
            batch_size=self.batch_size,
            rank=self._rank,
            num_ranks=self._num_ranks,
            num_epochs=self.num_epochs,
            num_done=num_done,
            add_text=self._add_text,
        )

    def __len__(self) -> int:
        return len(self.plan(self.epoch))

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch of the next iteration."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[Batch]:
        with self._waiting():
            num_done = self._num_done()
            plan, num_steps = self.plan(self.epoch, num_done), len(self)
            # Counted back from the epoch's end: after a resume with other batches or ranks too, the last step is the last of an
            # epoch.
            self._step = num_steps - len(plan)
            self._resumed = num_done, self._step
            batches = (self._fresh if self.cache is None else self.cache).batches(plan)
        while self._step < num_steps:
            with self._waiting():
                batch = next(batches, None)
                if batch is None:  # the image loader was released
                    return
                self.num_images += batch.samples.num_real
                self._step += 1
                # Before the last batch: Lightning knows the length and never resumes this generator after it.
                if self._step == num_steps:
                    self._finish_epoch()
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Returns the position of the loader: the epoch, and the samples of it that all ranks have been given.

        Everything else that a resumed run needs follows from the plan.
        """
        num_done, first_step = self._resumed
        num_given = num_done + (self._step - first_step) * self.batch_size * self._num_ranks
        return {"epoch": self.epoch, "samples": min(num_given, len(self.dataset.manifest))}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Makes the next iteration continue where `state` was taken, also by another number of ranks or in other batches."""
        self._resume_at = state["epoch"], state["samples"]
        self.epoch = state["epoch"]

    def reset_statistics(self) -> None:
        """Sets the waiting time, the number of images and the epoch's cache accesses to 0."""
        self._stages, self.num_images = DeviceStages(), 0
        self._fresh.target_seconds = 0.0
        self.statistics.start_epoch()

    @property
    def wait_seconds(self) -> float:
        """Time that the consumer spent waiting for batches; on a GPU the time that its stream did, which is read from the device.

        The host's own waiting would mislead there: a batch is handed out before DALI has finished it, and while the host waits for
        one, the GPU may still be busy with earlier steps.
        """
        return self._stages.seconds(_WAITING)

    @property
    def wait_seconds_so_far(self) -> float:
        """`wait_seconds` as far as the device has come, without waiting for it."""
        return self._stages.seconds_ended(_WAITING)

    @property
    def target_seconds(self) -> float:
        """Time that the host spent making targets while the consumer waited."""
        return self._fresh.target_seconds

    @property
    def cache_bytes(self) -> dict[str, int]:
        """Bytes taken by the caches of this split, by tier: gpu, ram, disk."""
        num_bytes = {"gpu": 0, "ram": 0}
        if self.cache is not None:
            num_bytes |= self.cache.store.num_bytes
        kept, maps = self.dataset.kept_images, self.dataset.offline_maps
        if kept is not None:
            num_bytes["ram"] += kept.file_bytes
            num_bytes["gpu" if kept.device.type == "cuda" else "ram"] += kept.pixel_bytes
        if maps is not None:
            num_bytes["ram"] += maps.num_bytes
        return num_bytes

    def fill_cache(self) -> None:
        """Makes all entries of the tensor cache now, with a progress bar."""
        for _ in followed(self, "Normalising images, in batches", len(self)):
            pass

    def close(self) -> None:
        """Ends threads and processes and frees the pipelines."""
        self._fresh.close()
        if self.cache is not None:
            self.cache.close()

    def _waiting(self) -> AbstractContextManager[None]:
        return self._stages.stage(_WAITING, self._device)

    def _num_done(self) -> int:
        """Returns the samples of this epoch that were trained before; 0 unless the run resumes in the middle of it."""
        resume_at, self._resume_at = self._resume_at, None
        if resume_at is None or resume_at[0] != self.epoch or resume_at[1] >= len(self.dataset.manifest):
            return 0
        return resume_at[1]

    def _finish_epoch(self) -> None:
        if self.dataset.offline_maps is not None:
            self.dataset.offline_maps.warn_of_fallbacks()
        if self.cache is not None:
            self.cache.finish_epoch()

    def _open_cache(self, tiers: TierPlan, engine: Engine, with_targets: bool) -> CachedBatches:
        dataset, device = self.dataset, engine.device
        config, layout = dataset.config.cache_config, entry_layout(dataset, with_targets)
        files = EntryFiles(config.directory, tiers.disk_budget) if config.directory is not None else None
        recipe = recipe_digest(
            dataset.planner.config,
            dataset.targets,
            layout,
            loader=engine.name,
            device=device.type,
            device_name=torch.cuda.get_device_name(device) if device.type == "cuda" else None,
            image_loading=dataset.config.image_loading_config.model_dump(),
            predecoded=dataset.config.preload_images and config.image_format == "decoded",
        )
        store = TensorStore(layout, tiers, device, files)
        return CachedBatches(dataset, self.plan(0), store, self._fresh, recipe=recipe, statistics=self.statistics)

    def _cache_sizes(self) -> CacheSizes:
        kept, maps = self.dataset.kept_images, self.dataset.offline_maps
        return CacheSizes(
            images=kept.num_images if kept is not None else 0,
            tensors=self.cache.store.num_kept if self.cache is not None else 0,
            maps=maps.num_kept if maps is not None else 0,
        )
