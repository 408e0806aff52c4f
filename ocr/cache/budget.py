"""How much memory the caches of a run will take, where, and what is free: decided and shown before the run starts."""

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from ocr.cache.entry import EntryLayout
from ocr.cache.files import SUFFIX
from ocr.datasets.manifest import Manifest
from ocr.datasets.schemas import CacheConfig
from ocr.machine import free_ram

log = logging.getLogger(__name__)

SHARE_OF_FREE = 0.5
"""Of the free memory, what a budget of null takes where nobody has planned what else needs it."""
NEARLY_FULL = 0.1
"""Below this free share of the memory a run warns, and no budget goes further."""


@dataclass(frozen=True)
class TierPlan:
    """Where the entries of one rank's share of a split will lie: the first on the GPU, the next in RAM, all on disk.

    entries   0 1 2 3 | 4 5 6 7 8 | 9 10 11
    memory    GPU     | RAM       | -          a batch lies in one of them; 9 to 11 are read from disk, or loaded
    disk      0 1 2 3   4 5 6 7 8   9          kept beyond the run, as far as its budget goes
    """

    num_entries: int
    entry_bytes: int
    num_on_gpu: int
    num_in_ram: int
    disk_budget: int = 0
    """Bytes; 0: no disk tier."""
    free_disk: int = 0
    """Bytes that were free there when the plan was made."""

    @property
    def gpu_bytes(self) -> int:
        return self.num_on_gpu * self.entry_bytes

    @property
    def ram_bytes(self) -> int:
        return self.num_in_ram * self.entry_bytes

    @property
    def num_resident(self) -> int:
        """Entries on the GPU or in RAM."""
        return self.num_on_gpu + self.num_in_ram


@dataclass(frozen=True)
class FreeMemory:
    """Bytes that are free for one rank."""

    gpu: int
    ram: int
    is_gpu_planned: bool = False
    """`gpu` is what a plan leaves that has network, DALI and reserve in it: a budget of null may take nearly all of it."""

    @classmethod
    def measured(cls, device: torch.device, num_ranks: int = 1) -> "FreeMemory":
        """What is free now. RAM is shared by the ranks of this machine, a GPU belongs to one."""
        gpu = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0
        return cls(gpu, free_ram() // num_ranks)

    def less(self, *, gpu: int, ram: int) -> "FreeMemory":
        """What is free once these are taken."""
        return replace(self, gpu=max(self.gpu - gpu, 0), ram=max(self.ram - ram, 0))

    def gpu_budget(self, configured: int | None) -> int:
        """Bytes that a cache may take of the GPU."""
        return budget_bytes(configured, self.gpu, 1 - NEARLY_FULL if self.is_gpu_planned else SHARE_OF_FREE)

    def ram_budget(self, configured: int | None) -> int:
        """Bytes that a cache may take of the RAM."""
        return budget_bytes(configured, self.ram)


def plan_tiers(
    layout: EntryLayout, num_entries: int, batch_size: int, config: CacheConfig, device: torch.device, free: FreeMemory
) -> TierPlan:
    """As many whole batches as the budgets allow, in the fastest memory first."""
    gpu_budget = free.gpu_budget(config.device_budget) if device.type == "cuda" else 0
    num_on_gpu = _whole_batches(gpu_budget // layout.num_bytes, num_entries, batch_size)
    rest = num_entries - num_on_gpu
    num_in_ram = _whole_batches(free.ram_budget(config.ram_budget) // layout.num_bytes, rest, batch_size)
    free_disk = 0 if config.directory is None else free_on_disk(Path(config.directory))
    disk_budget = 0 if config.directory is None else budget_bytes(config.disk_budget, free_disk)
    return TierPlan(num_entries, layout.num_bytes, num_on_gpu, num_in_ram, disk_budget, free_disk)


def budget_bytes(configured: int | None, free: int, default_share: float = SHARE_OF_FREE) -> int:
    """What is configured, but no more than nearly all that is free; or the default share of that."""
    return int(default_share * free) if configured is None else min(int(configured), int((1 - NEARLY_FULL) * free))


def _whole_batches(num_fitting: int, num_wanted: int, batch_size: int) -> int:
    return num_wanted if num_fitting >= num_wanted else num_fitting // batch_size * batch_size


def file_bytes(manifest: Manifest, indices: Sequence[int]) -> int:
    """Of the files of these images; those that are gone are reported when they are read."""
    return sum(manifest.images.num_bytes(index) for index in indices)


def decoded_bytes(manifest: Manifest, indices: Sequence[int]) -> int:
    """Of these images as RGB levels."""
    return int(3 * np.prod(manifest.original_sizes[list(indices)].astype(np.int64), axis=1).sum())


def free_on_disk(directory: Path) -> int:
    """Bytes that entries in this folder may have: those that are free, and those of the entries in it."""
    of_entries = sum(path.stat().st_size for path in directory.glob(f"*{SUFFIX}"))
    while not directory.exists() and directory != directory.parent:
        directory = directory.parent
    return shutil.disk_usage(directory).free + of_entries
