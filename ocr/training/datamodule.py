"""The Lightning data module: one restartable loader a split, sharded by the trainer's rank, and what the caches may take."""

import logging
from collections.abc import Callable
from typing import Any, Literal

import lightning
import torch

from ocr.cache.budget import (
    FreeMemory,
    MemoryRow,
    TierPlan,
    budget_bytes,
    decoded_bytes,
    file_bytes,
    memory_table,
    plan_tiers,
)
from ocr.cache.images import keep_images
from ocr.config import DataLoaderConfig
from ocr.datasets.base import ValidatedOCRDataset
from ocr.datasets.loader import BatchLoader, entry_layout

log = logging.getLogger(__name__)


class DBNetDataModule(lightning.LightningDataModule):
    """Hands Lightning its loaders. They shard by themselves: use_distributed_sampler must be off.

    Args:
        train, val: audited data sets; None where the split is not used.
        config: batch sizes and workers.
        loader: who executes the plans.
        val_targets: make target maps for the validation split too.
    """

    def __init__(
        self,
        train: ValidatedOCRDataset | None,
        val: ValidatedOCRDataset | None,
        config: DataLoaderConfig,
        *,
        loader: Literal["dali", "torch"],
        val_targets: bool = False,
    ) -> None:
        super().__init__()
        self.train = train
        self.val = val
        self.config = config
        self.loader = loader
        self.val_targets = val_targets
        self.evaluation_failures: dict[str, str] = {}
        """Reason for each file that failed while it was evaluated."""
        self.memory_rows: list[MemoryRow] = []
        """What the caches are predicted to take on this rank."""
        self._tiers: TierPlan | None = None
        self._is_set_up = False
        self._loaders: dict[str, BatchLoader] = {}
        self._train_state: dict[str, int] | None = None

    def state_dict(self) -> dict[str, Any]:
        """Where the training loader is. Lightning saves this in checkpoints; the states it keeps of loaders themselves are
        lost on loading once the schedule has asked it for the number of steps."""
        return {"train": self._loaders["train"].state_dict() if "train" in self._loaders else None}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._train_state = state_dict["train"]

    def setup(self, stage: str) -> None:
        """Decides, before the run, what is kept where, shows it, and preloads images."""
        if self._is_set_up:
            return
        self._is_set_up = True
        free = FreeMemory.measured(self._device(), self._trainer().world_size)
        if self.val is not None:
            free = self._plan_tensors(self.val, free)
        preloads = []
        for name, dataset in (("validation", self.val), ("training", self.train)):
            if dataset is not None:
                preload, free = self._plan_images(name, dataset, free)
                preloads.append(preload)
        if self.memory_rows and self._trainer().is_global_zero:
            log.info("\n%s", memory_table(self.memory_rows))
        for preload in preloads:
            preload()

    def train_dataloader(self) -> BatchLoader:
        loader = self._loader("train", self.train, self.config.batch_size)
        if self._train_state is not None:
            loader.load_state_dict(self._train_state)
        return loader

    def val_dataloader(self) -> BatchLoader:
        loader = self._loader("val", self.val, self.config.eval_batch_size)
        self.evaluation_failures = loader.failures
        if loader.dataset.config.prenormalize_images:
            loader.fill_cache()
        return loader

    def predict_dataloader(self) -> BatchLoader:
        return self.val_dataloader()

    def teardown(self, stage: str) -> None:
        for loader in self._loaders.values():
            loader.close()
        self._loaders.clear()

    def _trainer(self) -> lightning.Trainer:
        if self.trainer is None:
            raise RuntimeError("a trainer must have this data module: it knows the device and the rank")
        return self.trainer

    def _device(self) -> torch.device:
        return self._trainer().strategy.root_device

    def _plan_tensors(self, dataset: ValidatedOCRDataset, free: FreeMemory) -> FreeMemory:
        """Where finished tensors go; what is then free."""
        config, trainer = dataset.config.cache_config, self._trainer()
        if not config.cache_transformed_tensors:
            return free
        layout = entry_layout(dataset, self.val_targets)
        num_entries = -(-len(dataset) // trainer.world_size)
        tiers = plan_tiers(layout, num_entries, self.config.eval_batch_size, config, self._device(), free)
        self._tiers = tiers
        if not tiers.num_resident and not tiers.disk_budget:
            if config.ram_budget != 0 and trainer.is_global_zero:
                log.warning("validation: not one batch of finished inputs fits into memory; each epoch makes them anew")
            return free
        what = f"validation: {num_entries} finished inputs"
        if self._device().type == "cuda":
            gpu_budget = budget_bytes(config.device_budget, free.gpu)
            self.memory_rows.append(MemoryRow(what, "GPU", tiers.gpu_bytes, gpu_budget, free.gpu))
        ram_budget = budget_bytes(config.ram_budget, free.ram)
        self.memory_rows.append(MemoryRow(what, "RAM", tiers.ram_bytes, ram_budget, free.ram))
        if config.directory is not None:
            on_disk = min(num_entries * layout.num_bytes, tiers.disk_budget)
            self.memory_rows.append(MemoryRow(what, "disk", on_disk, tiers.disk_budget, tiers.free_disk))
        if trainer.is_global_zero:
            log.info("Tensor caching enabled - will cache %d transformed samples after first access", num_entries)
            num_left = num_entries - tiers.num_resident
            if num_left:
                fate = "read from disk" if config.directory is not None else "made anew"
                log.info("%d of %d do not fit into memory and are %s in each epoch", num_left, num_entries, fate)
        return free.less(gpu=tiers.gpu_bytes, ram=tiers.ram_bytes)

    def _plan_images(
        self, name: str, dataset: ValidatedOCRDataset, free: FreeMemory
    ) -> tuple[Callable[[], None], FreeMemory]:
        """How the split's images are preloaded, and what is then free."""
        config, cache, trainer = dataset.config, dataset.config.cache_config, self._trainer()
        does_preload = config.preload_images and cache.cache_images
        # Workers of loader=torch must see what is kept.
        device = self._device() if self.loader == "dali" else torch.device("cpu")
        on_gpu = cache.cache_decoded_images and device.type == "cuda"
        # A configured budget is of the whole split: finished tensors have had their part of it.
        taken = self._tiers if dataset is self.val else None
        gpu_budget = budget_bytes(_less(cache.device_budget, taken.gpu_bytes if taken else 0), free.gpu)
        ram_budget = budget_bytes(_less(cache.ram_budget, taken.ram_bytes if taken else 0), free.ram)
        indices = range(len(dataset))
        if not dataset.transform.is_random:  # this rank's share is the same in each epoch
            indices = indices[trainer.global_rank :: trainer.world_size]
        gpu = ram = 0
        if does_preload and cache.image_format == "encoded":
            ram += min(file_bytes(dataset.manifest, indices), ram_budget)
            self.memory_rows.append(MemoryRow(f"{name}: image files", "RAM", ram, ram_budget, free.ram))
        if cache.cache_decoded_images or (does_preload and cache.image_format == "decoded"):
            wanted, what = decoded_bytes(dataset.manifest, indices), f"{name}: decoded images"
            if on_gpu:
                gpu = min(wanted, gpu_budget)
                self.memory_rows.append(MemoryRow(what, "GPU", gpu, gpu_budget, free.gpu))
            else:
                ram += min(wanted, ram_budget - ram)
                self.memory_rows.append(MemoryRow(what, "RAM", ram, ram_budget, free.ram))
        maps = dataset.offline_maps
        if maps is not None and config.preload_maps:
            num_bytes = maps.file_bytes(indices)
            ram += num_bytes
            self.memory_rows.append(MemoryRow(f"{name}: map files", "RAM", num_bytes, ram_budget, free.ram))

        def preload() -> None:
            dataset.keep_images(
                keep_images(
                    config,
                    dataset.manifest,
                    device=device,
                    ram_budget=ram_budget,
                    device_budget=gpu_budget,
                    indices=indices,
                )
            )
            if maps is not None and config.preload_maps:
                maps.preload(indices)

        return preload, free.less(gpu=gpu, ram=ram)

    def _loader(self, name: str, dataset: ValidatedOCRDataset | None, batch_size: int) -> BatchLoader:
        if dataset is None:
            raise ValueError("this data module was built without the split that the trainer asks for")
        trainer = self._trainer()
        self._loaders[name] = BatchLoader(
            dataset,
            loader=self.loader,
            batch_size=batch_size,
            num_workers=self.config.num_workers,
            device=self._device(),
            rank=trainer.global_rank,
            num_ranks=trainer.world_size,
            skip_failures=dataset.config.on_bad_sample != "error",
            with_targets=name == "train" or self.val_targets,
            tiers=self._tiers if name == "val" else None,
        )
        return self._loaders[name]


def _less(budget: int | None, taken: int) -> int | None:
    return None if budget is None else max(budget - taken, 0)
