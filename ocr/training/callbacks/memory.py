"""Compares the memory of a run with its plan, and explains the error when memory runs out."""

import logging
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn

from ocr.cache.budget import NEARLY_FULL
from ocr.machine import free_ram, resident_set, total_ram
from ocr.memory.out_of_memory import ExplainOutOfMemory
from ocr.memory.plan import MemoryPlan
from ocr.training.trainer_parts import log_scalars

log = logging.getLogger(__name__)

MEASURED_FIRST, MEASURED_EVERY = 8, 50
"""Memory is measured in the first 8 steps of an epoch, then every 50. The allocators of PyTorch and DALI keep the memory that they
once took, so few measurements are enough."""


class MemoryWatch(Callback):
    """Measures the GPU memory in use, keeps `summary["memory_plan"]` up to date, and warns once if the plan is exceeded.

    After each validation it also logs the memory in use as scalars. It warns once if less than a tenth is left: of the RAM on the
    first rank of a machine, of a GPU on its own rank.

    Args:
        summary: content of the run's summary.json.
    """

    def __init__(self, summary: dict[str, Any]) -> None:
        self._summary = summary
        self._warned_of: set[str] = set()

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        self.measure(trainer)

    def on_train_batch_end(self, trainer: lightning.Trainer, *args: Any, **kwargs: Any) -> None:
        self._measure_sometimes(trainer, trainer.fit_loop.batch_idx)

    def on_validation_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._measure_sometimes(trainer, batch_idx)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.measure(trainer)

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.measure(trainer)
        if not trainer.sanity_checking:
            self._log_memory_in_use(trainer)

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        self.measure(trainer)

    def _measure_sometimes(self, trainer: lightning.Trainer, batch_idx: int) -> None:
        if batch_idx < MEASURED_FIRST or batch_idx % MEASURED_EVERY == 0:
            self.measure(trainer)

    def measure(self, trainer: lightning.Trainer) -> None:
        """Measures the memory in use now and updates the summary."""
        plan: MemoryPlan | None = getattr(getattr(trainer, "datamodule", None), "memory", None)
        if plan is None:
            return
        plan.sample(trainer.strategy.root_device)
        self._summary["memory_plan"] = plan.as_summary()
        warning = plan.warning()
        if warning is not None:
            self._warn_once("the plan", warning)

    def _log_memory_in_use(self, trainer: lightning.Trainer) -> None:
        free = free_ram()
        scalars = {"memory/ram_used": resident_set(), "memory/ram_free": free}
        if trainer.local_rank == 0:
            self._warn_if_nearly_full("RAM", free, total_ram())
        device = trainer.strategy.root_device
        if device.type == "cuda":
            # The driver counts DALI's share too; torch's own count does not.
            free, total = torch.cuda.mem_get_info(device)
            scalars["memory/gpu_used"] = total - free
            self._warn_if_nearly_full("GPU memory", free, total)
        log_scalars(trainer, dict(scalars))

    def _warn_if_nearly_full(self, name: str, free: int, total: int) -> None:
        if free < NEARLY_FULL * total:
            self._warn_once(
                name,
                f"memory: only {free / 1e9:.1f} of {total / 1e9:.1f} GB of {name} is free; lower cache_config.ram_budget or "
                "device_budget, or use performance=constrained",
            )

    def _warn_once(self, subject: str, warning: str) -> None:
        if subject not in self._warned_of:
            self._warned_of.add(subject)
            log.warning("%s", warning)


class FollowForOutOfMemory(Callback):
    """Tells `ExplainOutOfMemory` the phase of the run, and has it explain an error while the run still holds its memory."""

    def __init__(self, explain: ExplainOutOfMemory) -> None:
        self._explain = explain

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._explain.when = f"in training, epoch {trainer.current_epoch + 1}"

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        epoch = f", epoch {trainer.current_epoch + 1}" if trainer.state.fn == TrainerFn.FITTING else ""
        self._explain.when = f"in validation{epoch}"

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.on_train_epoch_start(trainer, pl_module)

    def on_predict_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._explain.when = "in prediction"

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        datamodule: Any = getattr(trainer, "datamodule", None)
        self._explain.explain_now(exception, {} if datamodule is None else datamodule.cache_bytes)
