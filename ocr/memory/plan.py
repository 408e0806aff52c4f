"""What a run will take of the memory, all together: decided and shown before it starts, and compared with what it took.

    network (trial step)  +  DALI's pools  +  reserve  +  caches, as far as the rest goes   =   predicted peak

One card holds what torch's allocator, DALI's pools and the caches take; none of the three sees the others.
"""

import logging
from dataclasses import dataclass, field, replace
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.table import Table

from dali_pipelines.memory import PoolBytes
from ocr.cache.budget import NEARLY_FULL, FreeMemory
from ocr.machine import total_ram
from ocr.memory.network import NetworkMemory, StepMemory

log = logging.getLogger(__name__)

GPU, RAM, PINNED, DISK = "GPU", "RAM", "pinned RAM", "disk"
SAMPLED_FIRST, SAMPLED_EVERY = 8, 50
"""Steps of an epoch after which memory is looked at: both allocators keep what they once took, so few are enough."""


@dataclass(frozen=True)
class MemoryRow:
    """One line of the table before the run. Bytes."""

    what: str
    where: str
    predicted: int
    budget: int | None = None
    """Of a cache: what it may take at most; what does not fit is loaded in each epoch."""


@dataclass
class MemoryPlan:
    """Rows that are taken from the free memory one after the other.

    Args:
        free: before anything of this run.
        gpu_total: bytes of the card; None without one.
        num_ranks: processes that share the RAM; `free.ram` is the part of one.
    """

    free: FreeMemory
    gpu_total: int | None = None
    num_ranks: int = 1
    rows: list[MemoryRow] = field(default_factory=list)
    is_whole: bool = False
    """Whether network and DALI are in it, so that the sum is the run's peak; else it is of the caches alone."""
    is_step_too_large: bool = False
    """The trial step found too little memory."""
    measured_gpu_peak: int | None = None
    """The most this run had in use so far, its CUDA context left out."""

    @property
    def left(self) -> FreeMemory:
        """What the rows leave, for caches."""
        left = self.free.less(gpu=self.sum_of(GPU), ram=self.sum_of(RAM) + self.sum_of(PINNED))
        return replace(left, is_gpu_planned=self.is_whole)

    def sum_of(self, where: str) -> int:
        """Bytes predicted there."""
        return sum(row.predicted for row in self.rows if row.where == where)

    def add(self, what: str, where: str, predicted: int, budget: int | None = None) -> None:
        self.rows.append(MemoryRow(what, where, predicted, budget))

    def add_network(self, network: NetworkMemory, steps: StepMemory | None, batch_sizes: tuple[int, int]) -> None:
        """Args:
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
            more = "" if steps.was_enough else ", and more: it did not fit"
            self.add(f"network: a training step of {batch_sizes[0]} images{more}", where, steps.training)
            self.add(f"network: validation of {batch_sizes[1]} images, beyond that", where, steps.validation)

    def add_pools(self, name: str, pools: PoolBytes) -> None:
        """DALI's pipeline of a split."""
        self.add(f"DALI: {name} pipeline", RAM if self.gpu_total is None else GPU, pools.device)
        if pools.pinned:
            self.add(f"DALI: {name} pipeline", PINNED, pools.pinned)

    def add_reserve(self) -> None:
        """Of the card, what nobody plans with: cuDNN's and cuBLAS's own, modules that are loaded late, target maps under way,
        fragmentation. A tenth of it, below which a run warns."""
        if self.gpu_total is not None:
            self.add(f"reserve: {NEARLY_FULL:.0%} of the GPU", GPU, int(NEARLY_FULL * self.gpu_total))

    @property
    def predicted_gpu_peak(self) -> int | None:
        """Bytes; None where there is no GPU, or not all is planned."""
        return self.sum_of(GPU) if self.gpu_total is not None and self.is_whole else None

    @property
    def fits(self) -> bool:
        """Whether the GPU has room for all rows; caches are made so that they do."""
        return self.gpu_total is None or (self.sum_of(GPU) <= self.free.gpu and not self.is_step_too_large)

    def verdict(self) -> str:
        """One line below the table."""
        ram = _gigabytes(self.sum_of(RAM) + self.sum_of(PINNED))
        shared = "" if self.num_ranks == 1 else f" for each of {self.num_ranks} processes"
        of_ram = f"{_gigabytes(self.free.ram)} of {_gigabytes(total_ram())} free now{shared}"
        if self.gpu_total is None:
            uncounted = ", what a step makes and drops not counted" if self.is_whole else ""
            return f"RAM: {ram} planned{uncounted}; {of_ram}"
        fits = "it fits" if self.fits else "it does not fit"
        of_gpu = f"{_gigabytes(self.free.gpu)} of {_gigabytes(self.gpu_total)} free now"
        return f"GPU: {_gigabytes(self.sum_of(GPU))} planned; {of_gpu}: {fits}. RAM: {ram} planned; {of_ram}"

    def table(self) -> str:
        """The rows as a table of text, in MB (10^6 bytes), and the verdict."""
        table = Table(title="Memory of this process, planned" if self.is_whole else "Memory of the caches, planned")
        table.add_column("what")
        table.add_column("where")
        table.add_column("planned", justify="right")
        table.add_column("at most", justify="right")
        for row in self.rows:
            budget = "" if row.budget is None else _megabytes(row.budget)
            table.add_row(row.what, row.where, _megabytes(row.predicted), budget)
        console = Console(width=110, force_terminal=False, color_system=None)
        with console.capture() as capture:
            console.print(table)
        return f"{capture.get().rstrip()}\n{self.verdict()}"

    def as_summary(self) -> dict[str, Any]:
        """What summary.json holds."""
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
        """Looks at what is in use on the GPU now, beyond what was before the plan. Does not wait for the device."""
        if device.type != "cuda":
            return
        in_use = self.free.gpu - torch.cuda.mem_get_info(device)[0]
        self.measured_gpu_peak = max(self.measured_gpu_peak or 0, in_use)

    def warning(self) -> str | None:
        """What to tell if more was taken than planned."""
        predicted, measured = self.predicted_gpu_peak, self.measured_gpu_peak
        if predicted is None or measured is None or measured <= predicted:
            return None
        return (
            f"memory: this run has had {_gigabytes(measured)} of the GPU in use, {_gigabytes(predicted)} were planned; what other "
            "programs have taken meanwhile is counted too"
        )


class MemoryWatch(Callback):
    """Fills the measured peak of the plan while the run goes, keeps `summary["memory_plan"]` up to date, and warns once.

    Args:
        summary: of the run.
    """

    def __init__(self, summary: dict[str, Any]) -> None:
        self._summary = summary
        self._has_warned = False

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        self.look(trainer)

    def on_train_batch_end(self, trainer: lightning.Trainer, *args: Any, **kwargs: Any) -> None:
        self._look_now_and_then(trainer, trainer.fit_loop.batch_idx)

    def on_validation_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._look_now_and_then(trainer, batch_idx)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.look(trainer)

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.look(trainer)

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        self.look(trainer)

    def _look_now_and_then(self, trainer: lightning.Trainer, batch_idx: int) -> None:
        if batch_idx < SAMPLED_FIRST or batch_idx % SAMPLED_EVERY == 0:
            self.look(trainer)

    def look(self, trainer: lightning.Trainer) -> None:
        """Samples the memory in use."""
        plan: MemoryPlan | None = getattr(getattr(trainer, "datamodule", None), "memory", None)
        if plan is None:
            return
        plan.sample(trainer.strategy.root_device)
        self._summary["memory_plan"] = plan.as_summary()
        warning = plan.warning()
        if warning is not None and not self._has_warned:
            self._has_warned = True
            log.warning("%s", warning)


def _megabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:,.0f} MB"


def _gigabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:,.1f} GB"
