"""The memory plan of a run: shown before it starts, compared with the measured peak while it runs.

    network (trial step)  +  DALI's pools  +  reserve  +  caches in the remaining memory  =  predicted peak

PyTorch's allocator, DALI's pools and the caches share one GPU, and none of them knows of the others.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from dali_pipelines.memory import PoolBytes
from ocr.cache.budget import NEARLY_FULL, FreeMemory
from ocr.machine import total_ram

GPU, RAM, PINNED, DISK = "GPU", "RAM", "pinned RAM", "disk"


@dataclass(frozen=True)
class NetworkMemory:
    """Bytes that persist between steps."""

    weights: int
    """Weights and buffers, and their moving average if there is one."""
    gradients: int
    """Gradients and, with several ranks, the buckets for their sum."""
    optimizer_state: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer_state


@dataclass(frozen=True)
class StepMemory:
    """Bytes that steps need in addition to `NetworkMemory`."""

    training: int
    """Activations, inputs, targets and workspaces of a training step."""
    validation: int
    """Bytes that a validation step needs beyond the memory that a training step leaves free for it. With CUDA graphs, which keep
    their memory, all bytes of a validation step."""
    was_enough: bool = True
    """False: memory ran out during the measurement. The bytes are those allocated until then."""


@dataclass(frozen=True)
class MemoryRow:
    """One line of the table."""

    what: str
    where: str
    predicted: int
    """Bytes."""
    budget: int | None = None
    """Most bytes a cache may hold; the rest of its data is loaded again in every epoch."""


@dataclass
class MemoryPlan:
    """Rows that claim the free memory one after the other.

    Args:
        free: memory that was free before the run allocated any.
        gpu_total: bytes of the GPU; None without one.
        num_ranks: processes that share the RAM; `free.ram` is the share of one.
    """

    free: FreeMemory
    gpu_total: int | None = None
    num_ranks: int = 1
    rows: list[MemoryRow] = field(default_factory=list)
    is_whole: bool = False
    """True: network and DALI are included, so the sum is the peak of the run. False: the rows are caches only."""
    is_step_too_large: bool = False
    """The trial step ran out of memory."""
    measured_gpu_peak: int | None = None
    """Most bytes in use during this run so far, without its CUDA context."""

    @classmethod
    def of_free_memory(cls, device: torch.device, num_ranks: int) -> "MemoryPlan":
        """Returns an empty plan for the memory that is free now."""
        gpu_total = torch.cuda.mem_get_info(device)[1] if device.type == "cuda" else None
        return cls(FreeMemory.measured(device, num_ranks), gpu_total, num_ranks)

    @property
    def left(self) -> FreeMemory:
        """Memory that the rows leave to caches."""
        left = self.free.less(gpu=self.sum_of(GPU), ram=self.sum_of(RAM) + self.sum_of(PINNED))
        return replace(left, is_gpu_planned=self.is_whole)

    def sum_of(self, where: str) -> int:
        """Returns the predicted bytes of all rows in one kind of memory."""
        return sum(row.predicted for row in self.rows if row.where == where)

    def add(self, what: str, where: str, predicted: int, budget: int | None = None) -> None:
        self.rows.append(MemoryRow(what, where, predicted, budget))

    def add_network(self, network: NetworkMemory, steps: StepMemory | None, batch_sizes: tuple[int, int]) -> None:
        """Adds the rows of the network.

        Args:
            steps: measured on a GPU; None on a CPU, where the weights are in RAM already.
            batch_sizes: of training and validation.
        """
        where = RAM if steps is None else GPU
        if steps is not None:
            self.add("network: weights", where, network.weights)
        self.add("network: gradients", where, network.gradients)
        self.add("network: optimizer state", where, network.optimizer_state)
        if steps is not None:
            self.is_step_too_large = not steps.was_enough
            at_least = "" if steps.was_enough else " (did not fit: needs more)"
            self.add(f"network: training step, {batch_sizes[0]} images{at_least}", where, steps.training)
            self.add(f"network: validation step, {batch_sizes[1]} images, extra", where, steps.validation)

    def add_pools(self, name: str, pools: PoolBytes) -> None:
        """Adds the DALI pipeline of a split."""
        self.add(f"DALI: {name} pipeline", RAM if self.gpu_total is None else GPU, pools.device)
        if pools.pinned:
            self.add(f"DALI: {name} pipeline", PINNED, pools.pinned)

    def add_reserve(self) -> None:
        """Adds a tenth of the GPU for memory that the plan cannot predict.

        This is memory for cuDNN and cuBLAS workspaces, modules loaded late, target maps in progress, and fragmentation. A run with
        less than that free warns.
        """
        if self.gpu_total is not None:
            self.add(f"reserve: {NEARLY_FULL:.0%} of the GPU", GPU, int(NEARLY_FULL * self.gpu_total))

    @property
    def predicted_gpu_peak(self) -> int | None:
        """Bytes; None without a GPU, and where only caches are planned."""
        return self.sum_of(GPU) if self.gpu_total is not None and self.is_whole else None

    @property
    def fits(self) -> bool:
        """Whether the GPU has room for all rows. Caches alone always fit: their size is chosen so."""
        return self.gpu_total is None or (self.sum_of(GPU) <= self.free.gpu and not self.is_step_too_large)

    def verdict(self) -> str:
        """Returns the line below the table: sums, free memory, and whether it fits."""
        ram = _gigabytes(self.sum_of(RAM) + self.sum_of(PINNED))
        shared = "" if self.num_ranks == 1 else f" for each of {self.num_ranks} processes"
        free_ram = f"{_gigabytes(self.free.ram)} of {_gigabytes(total_ram())} free{shared}"
        if self.gpu_total is None:
            uncounted = " (excluding per-step temporaries)" if self.is_whole else ""
            return f"RAM: {ram} planned{uncounted}, {free_ram}"
        fits = "it fits" if self.fits else "it does not fit"
        free_gpu = f"{_gigabytes(self.free.gpu)} of {_gigabytes(self.gpu_total)} free"
        return f"GPU: {_gigabytes(self.sum_of(GPU))} planned, {free_gpu}: {fits}. RAM: {ram} planned, {free_ram}"

    def table(self) -> str:
        """Returns the rows as a text table in MB (10^6 bytes), with the verdict below."""
        table = Table(title="Planned memory of this process" if self.is_whole else "Planned memory of the caches")
        table.add_column("part")
        table.add_column("memory")
        table.add_column("planned", justify="right")
        table.add_column("limit", justify="right")
        for row in self.rows:
            budget = "" if row.budget is None else _megabytes(row.budget)
            table.add_row(row.what, row.where, _megabytes(row.predicted), budget)
        console = Console(width=110, force_terminal=False, color_system=None)
        with console.capture() as capture:
            console.print(table)
        return f"{capture.get().rstrip()}\n{self.verdict()}"

    def as_summary(self) -> dict[str, Any]:
        """Returns the plan as summary.json holds it."""
        return {
            "rows": [
                {
                    "what": row.what,
                    "where": row.where,
                    "predicted_bytes": row.predicted,
                    "budget_bytes": row.budget,
                }
                for row in self.rows
            ],
            "predicted_gpu_peak_bytes": self.predicted_gpu_peak,
            "measured_gpu_peak_bytes": self.measured_gpu_peak,
        }

    def sample(self, device: torch.device) -> None:
        """Updates the measured peak with the GPU memory taken since the plan was made. Does not wait for the device."""
        if device.type != "cuda":
            return
        in_use = self.free.gpu - torch.cuda.mem_get_info(device)[0]
        self.measured_gpu_peak = max(self.measured_gpu_peak or 0, in_use)

    def warning(self) -> str | None:
        """Returns a warning if the measured peak exceeds the predicted one."""
        predicted, measured = self.predicted_gpu_peak, self.measured_gpu_peak
        if predicted is None or measured is None or measured <= predicted:
            return None
        return (
            f"memory: this run used up to {_gigabytes(measured)} of GPU memory; the plan was {_gigabytes(predicted)}. Memory that "
            "other programs have taken meanwhile is included"
        )


def _megabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:,.0f} MB" if num_bytes >= 500_000 or not num_bytes else "< 1 MB"


def _gigabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:,.1f} GB"
