"""Plans the memory of a run before it starts: every part claims its share of what the parts before it leave.

network -> DALI's pools -> reserve -> tensor cache of validation -> images and maps of validation and training
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch

from dali_pipelines.config import default_num_threads
from dali_pipelines.memory import PoolBytes, pool_bytes
from dali_pipelines.normalize import input_dtype
from ocr.cache.budget import TierPlan, decoded_bytes, file_bytes, plan_tiers
from ocr.cache.entry import entry_layout
from ocr.datasets.base import ValidatedOCRDataset
from ocr.datasets.kept_images import keep_images
from ocr.loaders.config import DataLoaderConfig
from ocr.memory.plan import DISK, GPU, RAM, MemoryPlan, NetworkMemory, StepMemory

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunData:
    """The data of a run as one process loads it."""

    train: ValidatedOCRDataset | None
    val: ValidatedOCRDataset | None
    config: DataLoaderConfig
    loader: Literal["dali", "torch"]
    val_targets: bool
    """Whether the validation split has target maps."""
    device: torch.device
    rank: int = 0
    num_ranks: int = 1

    def splits(self) -> Iterable[tuple[str, ValidatedOCRDataset, int]]:
        """Yields name, data set and batch size of the splits in use; no batch is larger than its split."""
        for name, dataset, batch_size in (
            ("training", self.train, self.config.batch_size),
            ("validation", self.val, self.config.eval_batch_size),
        ):
            if dataset is not None:
                yield name, dataset, min(batch_size, max(len(dataset), 1))

    def batch_sizes(self) -> tuple[int, int]:
        """Returns the batch sizes of training and validation; 1 for a split that is not in use."""
        sizes = {name: batch_size for name, _, batch_size in self.splits()}
        return sizes.get("training", 1), sizes.get("validation", 1)


@dataclass(frozen=True)
class Preload:
    """Images and maps of a split that are read into memory before the run, and the memory they may take."""

    dataset: ValidatedOCRDataset
    indices: range
    """This rank's share of the data set."""
    device: torch.device
    """Device of the decoded images."""
    device_budget: int
    ram_budget: int
    maps_budget: int = 0
    """Bytes of target maps from files that may stay in RAM, a part of `ram_budget`."""


@dataclass(frozen=True)
class PlannedMemory:
    """Memory that the planned parts may use."""

    pools: tuple[PoolBytes, ...]
    """DALI's pipelines; empty where only caches are planned."""
    val_tiers: TierPlan | None
    """Tensor cache of validation; None: off."""
    preloads: tuple[Preload, ...]


def plan_memory(
    plan: MemoryPlan, data: RunData, network: NetworkMemory | None = None, steps: StepMemory | None = None
) -> PlannedMemory:
    """Adds the rows of a run to an empty plan and returns the budgets.

    Args:
        network, steps: result of `measure_network`; without a network, only the caches are planned.
    """
    pools: list[PoolBytes] = []
    if network is not None:
        plan.add_network(network, steps, data.batch_sizes())
        if data.loader == "dali":
            pools = _plan_pools(plan, data)
        plan.add_reserve()
        plan.is_whole = True
    tiers = _plan_tensors(plan, data, data.val) if data.val is not None else None
    preloads = []
    if data.val is not None:
        preloads.append(_plan_images(plan, data, "validation", data.val, tiers))
    if data.train is not None:
        preloads.append(_plan_images(plan, data, "training", data.train, None))
    return PlannedMemory(tuple(pools), tiers, tuple(preloads))


def preload_images(preload: Preload) -> None:
    """Reads the images and maps of a split that its configuration keeps in memory."""
    dataset = preload.dataset
    dataset.kept_images = keep_images(
        dataset.config,
        dataset.manifest,
        device=preload.device,
        ram_budget=preload.ram_budget,
        device_budget=preload.device_budget,
        indices=preload.indices,
    )
    if dataset.offline_maps is not None:
        dataset.offline_maps.budget = preload.maps_budget
        if dataset.config.preload_maps:
            dataset.offline_maps.preload(preload.indices)


def _plan_pools(plan: MemoryPlan, data: RunData) -> list[PoolBytes]:
    pools = []
    for name, dataset, batch_size in data.splits():
        config = dataset.planner.config
        pool = pool_bytes(
            dataset.manifest.original_sizes,
            config,
            training=dataset.planner.training,
            batch_size=batch_size,
            dtype=input_dtype(config, data.device.type),
            num_threads=config.num_threads or default_num_threads(),
            on_gpu=data.device.type == "cuda",
        )
        plan.add_pools(name, pool)
        pools.append(pool)
    return pools


def _plan_tensors(plan: MemoryPlan, data: RunData, dataset: ValidatedOCRDataset) -> TierPlan | None:
    """Plans the tensor cache of validation: first on the GPU, then in RAM, then on disk if a folder is configured."""
    config, free = dataset.config.cache_config, plan.left
    if not config.cache_transformed_tensors:
        return None
    layout = entry_layout(dataset, data.val_targets)
    num_entries = -(-len(dataset) // data.num_ranks)
    tiers = plan_tiers(layout, num_entries, data.config.eval_batch_size, config, data.device, free)
    if not tiers.num_resident and not tiers.disk_budget:
        if config.ram_budget != 0 and data.rank == 0:
            log.warning("validation: not even one batch fits into the tensor cache; every epoch loads all images again")
        return tiers
    what = f"validation: tensor cache, {num_entries} images"
    if data.device.type == "cuda":
        plan.add(what, GPU, tiers.gpu_bytes, free.gpu_budget(config.device_budget))
    plan.add(what, RAM, tiers.ram_bytes, free.ram_budget(config.ram_budget))
    if config.directory is not None:
        plan.add(what, DISK, min(num_entries * layout.num_bytes, tiers.disk_budget), tiers.disk_budget)
    if data.rank == 0:
        log.info("Tensor caching enabled - will cache %d transformed samples after first access", num_entries)
        num_left = num_entries - tiers.num_resident
        if num_left:
            source = "read from the disk cache" if config.directory is not None else "loaded again"
            log.info("%d of %d do not fit into memory; they are %s in every epoch", num_left, num_entries, source)
    return tiers


def _plan_images(
    plan: MemoryPlan, data: RunData, name: str, dataset: ValidatedOCRDataset, tiers: TierPlan | None
) -> Preload:
    """Plans the images and maps that a split keeps. A configured budget is for all caches of the split, tensors first."""
    config, cache, free = dataset.config, dataset.config.cache_config, plan.left
    # Worker processes of loader=torch cannot see what lies on a GPU.
    device = data.device if data.loader == "dali" else torch.device("cpu")
    on_gpu = cache.cache_decoded_images and device.type == "cuda"
    gpu_budget = free.gpu_budget(_rest(cache.device_budget, tiers.gpu_bytes if tiers else 0))
    ram_budget = free.ram_budget(_rest(cache.ram_budget, tiers.ram_bytes if tiers else 0))
    indices = range(len(dataset))
    if not dataset.planner.is_random:  # this rank gets the same images in every epoch
        indices = indices[data.rank :: data.num_ranks]
    does_preload = config.preload_images and cache.cache_images
    planned_in_ram = 0
    if does_preload and cache.image_format == "encoded":
        planned_in_ram = min(file_bytes(dataset.manifest, indices), ram_budget)
        plan.add(f"{name}: preloaded image files", RAM, planned_in_ram, ram_budget)
    if cache.cache_decoded_images or (does_preload and cache.image_format == "decoded"):
        budget = gpu_budget if on_gpu else ram_budget - planned_in_ram
        planned = min(decoded_bytes(dataset.manifest, indices), budget)
        plan.add(f"{name}: decoded images", GPU if on_gpu else RAM, planned, budget)
        planned_in_ram += 0 if on_gpu else planned
    budget = ram_budget - planned_in_ram
    maps_budget = min(dataset.bytes_of_kept_maps(len(indices), tiers.num_kept if tiers else 0), budget)
    if maps_budget:
        plan.add(f"{name}: target maps from files", RAM, maps_budget, budget)
    return Preload(dataset, indices, device, gpu_budget, ram_budget, maps_budget)


def _rest(budget: int | None, taken: int) -> int | None:
    return None if budget is None else max(budget - taken, 0)
