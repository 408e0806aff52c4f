"""The Lightning data module: one restartable loader a split, sharded by the trainer's rank, and the memory plan of the run."""

import logging
from collections.abc import Callable
from typing import Any, Literal

import lightning
import torch

from dali_pipelines import memory
from dali_pipelines.config import default_num_threads
from ocr.cache.budget import FreeMemory, TierPlan, decoded_bytes, file_bytes, plan_tiers
from ocr.cache.entry import entry_layout
from ocr.datasets.base import ValidatedOCRDataset
from ocr.datasets.kept_images import keep_images
from ocr.loaders.config import DataLoaderConfig
from ocr.loaders.engines import Engine
from ocr.loaders.loader import BatchLoader
from ocr.memory.network import NetworkMemory, StepMemory
from ocr.memory.plan import DISK, GPU, RAM, MemoryPlan

log = logging.getLogger(__name__)

MeasureNetwork = Callable[[torch.device, int, int, int], tuple[NetworkMemory, StepMemory | None]]
"""What the network takes on a device, with so many ranks and these batch sizes of training and validation."""


class DBNetDataModule(lightning.LightningDataModule):
    """Hands Lightning its loaders. They shard by themselves: use_distributed_sampler must be off.

    Args:
        train, val: audited data sets; None where the split is not used.
        config: batch sizes and workers.
        loader: who executes the plans.
        val_targets: make target maps for the validation split too.
        measure_network: for a plan of all memory; without it the caches alone are planned.
        on_tight: told that the GPU cannot hold the network and DALI's pools even without caches, by the plan.
    """

    def __init__(
        self,
        train: ValidatedOCRDataset | None,
        val: ValidatedOCRDataset | None,
        config: DataLoaderConfig,
        *,
        loader: Literal["dali", "torch"],
        val_targets: bool = False,
        measure_network: MeasureNetwork | None = None,
        on_tight: Callable[[], None] | None = None,
    ) -> None:
        super().__init__()
        self.train = train
        self.val = val
        self.config = config
        self.loader = loader
        self.val_targets = val_targets
        self.evaluation_failures: dict[str, str] = {}
        """Reason for each file that failed while it was evaluated."""
        self.memory: MemoryPlan | None = None
        """Of this rank; None before the set-up."""
        self._measure_network, self._on_tight = measure_network, on_tight
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
        """Decides, before the run, what is kept where, shows it, makes DALI's pools and preloads images."""
        if self._is_set_up:
            return
        self._is_set_up = True
        device, trainer = self._device(), self._trainer()
        # Of an earlier run in this process: the trial step would give it back, once it was counted as taken.
        memory.release_unused(device)
        gpu_total = torch.cuda.mem_get_info(device)[1] if device.type == "cuda" else None
        free = FreeMemory.measured(device, trainer.world_size)
        plan = self.memory = MemoryPlan(free, gpu_total, trainer.world_size)
        pools = self._plan_run(plan, self._measure_network) if self._measure_network is not None else []
        if self.val is not None:
            self._plan_tensors(self.val, plan)
        preloads = []
        for name, dataset in (("validation", self.val), ("training", self.train)):
            if dataset is not None:
                preloads.append(self._plan_images(name, dataset, plan))
        if plan.rows and trainer.is_global_zero:
            log.info("\n%s", plan.table())
        if not plan.fits and self._on_tight is not None and trainer.is_global_zero:
            self._on_tight()
        if plan.fits:
            memory.preallocate(pools, device)
        for preload in preloads:
            preload()

    @property
    def cache_bytes(self) -> dict[str, int]:
        """Bytes that the caches take now, by tier: gpu, ram, disk."""
        num_bytes: dict[str, int] = {}
        for loader in self._loaders.values():
            for tier, count in loader.cache_bytes.items():
                num_bytes[tier] = num_bytes.get(tier, 0) + count
        return num_bytes

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
        if self.trainer is not None:
            memory.release_unused(self._device())

    def _trainer(self) -> lightning.Trainer:
        if self.trainer is None:
            raise RuntimeError("a trainer must have this data module: it knows the device and the rank")
        return self.trainer

    def _device(self) -> torch.device:
        return self._trainer().strategy.root_device

    def _plan_run(self, plan: MemoryPlan, measure_network: MeasureNetwork) -> list[memory.PoolBytes]:
        """Everything but the caches, which get what is left. What DALI's pipelines take, to make its pools."""
        device = self._device()
        splits = [
            (name, dataset, min(batch_size, max(len(dataset), 1)))
            for name, dataset, batch_size in (
                ("training", self.train, self.config.batch_size),
                ("validation", self.val, self.config.eval_batch_size),
            )
            if dataset is not None
        ]
        sizes = {name: batch_size for name, _, batch_size in splits}
        network, steps = measure_network(
            device, self._trainer().world_size, sizes.get("training", 1), sizes.get("validation", 1)
        )
        plan.add_network(network, steps, (sizes.get("training", 1), sizes.get("validation", 1)))
        pools = []
        for name, dataset, batch_size in splits if self.loader == "dali" else ():
            config = dataset.planner.config
            pool = memory.pool_bytes(
                dataset.manifest.original_sizes,
                config,
                training=dataset.planner.training,
                batch_size=batch_size,
                dtype=torch.float16 if config.wants_float16(device.type) else torch.float32,
                num_threads=config.num_threads or default_num_threads(),
                on_gpu=device.type == "cuda",
            )
            plan.add_pools(name, pool)
            pools.append(pool)
        plan.add_reserve()
        plan.is_whole = True
        return pools

    def _plan_tensors(self, dataset: ValidatedOCRDataset, plan: MemoryPlan) -> None:
        """Where finished tensors go."""
        config, trainer, free = dataset.config.cache_config, self._trainer(), plan.left
        if not config.cache_transformed_tensors:
            return
        layout = entry_layout(dataset, self.val_targets)
        num_entries = -(-len(dataset) // trainer.world_size)
        tiers = plan_tiers(layout, num_entries, self.config.eval_batch_size, config, self._device(), free)
        self._tiers = tiers
        if not tiers.num_resident and not tiers.disk_budget:
            if config.ram_budget != 0 and trainer.is_global_zero:
                log.warning("validation: not one batch of finished inputs fits into memory; each epoch makes them anew")
            return
        what = f"validation: {num_entries} finished inputs"
        if self._device().type == "cuda":
            plan.add(what, GPU, tiers.gpu_bytes, free.gpu_budget(config.device_budget))
        plan.add(what, RAM, tiers.ram_bytes, free.ram_budget(config.ram_budget))
        if config.directory is not None:
            on_disk = min(num_entries * layout.num_bytes, tiers.disk_budget)
            plan.add(what, DISK, on_disk, tiers.disk_budget)
        if trainer.is_global_zero:
            log.info("Tensor caching enabled - will cache %d transformed samples after first access", num_entries)
            num_left = num_entries - tiers.num_resident
            if num_left:
                fate = "read from disk" if config.directory is not None else "made anew"
                log.info("%d of %d do not fit into memory and are %s in each epoch", num_left, num_entries, fate)

    def _plan_images(self, name: str, dataset: ValidatedOCRDataset, plan: MemoryPlan) -> Callable[[], None]:
        """How the split's images are preloaded."""
        config, cache, trainer = dataset.config, dataset.config.cache_config, self._trainer()
        free = plan.left
        does_preload = config.preload_images and cache.cache_images
        # Workers of loader=torch must see what is kept.
        device = self._device() if self.loader == "dali" else torch.device("cpu")
        on_gpu = cache.cache_decoded_images and device.type == "cuda"
        # A configured budget is of the whole split: finished tensors have had their part of it.
        taken = self._tiers if dataset is self.val else None
        gpu_budget = free.gpu_budget(_less(cache.device_budget, taken.gpu_bytes if taken else 0))
        ram_budget = free.ram_budget(_less(cache.ram_budget, taken.ram_bytes if taken else 0))
        indices = range(len(dataset))
        if not dataset.planner.is_random:  # this rank's share is the same in each epoch
            indices = indices[trainer.global_rank :: trainer.world_size]
        of_files = 0
        if does_preload and cache.image_format == "encoded":
            of_files = min(file_bytes(dataset.manifest, indices), ram_budget)
            plan.add(f"{name}: image files", RAM, of_files, ram_budget)
        if cache.cache_decoded_images or (does_preload and cache.image_format == "decoded"):
            budget = gpu_budget if on_gpu else ram_budget - of_files
            wanted = decoded_bytes(dataset.manifest, indices)
            plan.add(f"{name}: decoded images", GPU if on_gpu else RAM, min(wanted, budget), budget)
        maps = dataset.offline_maps
        if maps is not None and config.preload_maps:
            plan.add(f"{name}: map files", RAM, maps.file_bytes(indices), ram_budget)

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

        return preload

    def _loader(self, name: str, dataset: ValidatedOCRDataset | None, batch_size: int) -> BatchLoader:
        if dataset is None:
            raise ValueError("this data module was built without the split that the trainer asks for")
        trainer = self._trainer()
        skip_failures = dataset.config.on_bad_sample != "error"
        self._loaders[name] = BatchLoader(
            dataset,
            Engine(self.loader, self._device(), self.config.num_workers, skip_failures),
            batch_size,
            rank=trainer.global_rank,
            num_ranks=trainer.world_size,
            with_targets=name == "train" or self.val_targets,
            tiers=self._tiers if name == "val" else None,
        )
        return self._loaders[name]


def _less(budget: int | None, taken: int) -> int | None:
    return None if budget is None else max(budget - taken, 0)
