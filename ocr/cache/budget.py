"""Computes the memory budgets of the caches, and plans how many entries are kept on the GPU, in RAM and on disk."""

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from ocr.cache.entry import EntryLayout
from ocr.cache.files import list_entries
from ocr.datasets.image_source import ask_each
from ocr.datasets.manifest import Manifest
from ocr.datasets.schemas import CacheConfig
from ocr.machine import free_ram

log = logging.getLogger(__name__)

SHARE_OF_FREE = 0.5
"""Share of the free memory that a budget of null takes if the run's other memory use has not been planned."""
NEARLY_FULL = 0.1
"""Share of the memory that every budget leaves free; a run warns when less is free."""


@dataclass(frozen=True)
class TierPlan:
    """Number of entries of one rank's share of a split in each tier: the first on the GPU, the next in RAM, all on disk.

    entries   0 1 2 3 | 4 5 6 7 8 | 9 10 11
    memory    GPU     | RAM       | -          a batch never spans two tiers; 9 to 11 are read from disk, or recomputed
    disk      0 1 2 3   4 5 6 7 8   9          as far as the disk budget goes; files outlive the run
    """

    num_entries: int
    entry_bytes: int
    num_on_gpu: int
    num_in_ram: int
    disk_budget: int = 0
    """Bytes; 0: no disk tier."""
    free_disk: int = 0
    """Bytes that were free on the disk when the plan was made."""

    @property
    def gpu_bytes(self) -> int:
        """Bytes of the entries on the GPU."""
        return self.num_on_gpu * self.entry_bytes

    @property
    def ram_bytes(self) -> int:
        """Bytes of the entries in RAM."""
        return self.num_in_ram * self.entry_bytes

    @property
    def num_resident(self) -> int:
        """Number of entries on the GPU or in RAM."""
        return self.num_on_gpu + self.num_in_ram

    @property
    def num_kept(self) -> int:
        """Number of entries on the GPU, in RAM or on disk: each is made once."""
        return min(max(self.num_resident, self.disk_budget // self.entry_bytes), self.num_entries)


@dataclass(frozen=True)
class FreeMemory:
    """Free bytes for one rank."""

    gpu: int
    ram: int
    is_gpu_planned: bool = False
    """Whether network, DALI and a reserve are already subtracted from `gpu`, so that a budget of null may take nearly all of it."""

    @classmethod
    def measured(cls, device: torch.device, num_ranks: int = 1) -> "FreeMemory":
        """Returns the memory that is free now. The ranks of this machine share its RAM; each has its own GPU."""
        gpu = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0
        return cls(gpu, free_ram() // num_ranks)

    def less(self, *, gpu: int, ram: int) -> "FreeMemory":
        """Returns the memory that remains after these bytes are taken."""
        return replace(self, gpu=max(self.gpu - gpu, 0), ram=max(self.ram - ram, 0))

    def gpu_budget(self, configured: int | None) -> int:
        """Returns the bytes that a cache may take on the GPU."""
        return budget_bytes(configured, self.gpu, 1 - NEARLY_FULL if self.is_gpu_planned else SHARE_OF_FREE)

    def ram_budget(self, configured: int | None) -> int:
        """Returns the bytes that a cache may take in RAM."""
        return budget_bytes(configured, self.ram)


def plan_tiers(
    layout: EntryLayout, num_entries: int, batch_size: int, config: CacheConfig, device: torch.device, free: FreeMemory
) -> TierPlan:
    """Returns a plan with as many whole batches as the budgets allow, in the fastest memory first."""
    gpu_budget = free.gpu_budget(config.device_budget) if device.type == "cuda" else 0
    num_on_gpu = _whole_batches(gpu_budget // layout.num_bytes, num_entries, batch_size)
    rest = num_entries - num_on_gpu
    num_in_ram = _whole_batches(free.ram_budget(config.ram_budget) // layout.num_bytes, rest, batch_size)
    free_disk = 0 if config.directory is None else free_on_disk(Path(config.directory))
    disk_budget = 0 if config.directory is None else budget_bytes(config.disk_budget, free_disk)
    return TierPlan(num_entries, layout.num_bytes, num_on_gpu, num_in_ram, disk_budget, free_disk)


def budget_bytes(configured: int | None, free: int, default_share: float = SHARE_OF_FREE) -> int:
    """Returns the configured bytes, but at most nine tenths of the free bytes.

    Without a configured budget, it returns the default share of the free bytes.
    """
    return int(default_share * free) if configured is None else min(int(configured), int((1 - NEARLY_FULL) * free))


def _whole_batches(num_fitting: int, num_wanted: int, batch_size: int) -> int:
    return num_wanted if num_fitting >= num_wanted else num_fitting // batch_size * batch_size


def file_bytes(manifest: Manifest, indices: Sequence[int]) -> int:
    """Returns the bytes of these images' files. A missing file counts as 0; it is reported when it is read."""
    return sum(ask_each(manifest.images.num_bytes, indices))


def decoded_bytes(manifest: Manifest, indices: Sequence[int]) -> int:
    """Returns the bytes of these images as RGB levels."""
    return int(3 * np.prod(manifest.original_sizes[list(indices)].astype(np.int64), axis=1).sum())


def free_on_disk(directory: Path) -> int:
    """Returns the bytes that entries in this folder may take: the free space plus the entries that are already there."""
    existing = sum(size for _, size, _ in list_entries(directory)) if directory.is_dir() else 0
    while not directory.exists() and directory != directory.parent:
        directory = directory.parent
    return shutil.disk_usage(directory).free + existing
