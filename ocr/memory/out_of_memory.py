"""What a user reads when memory ran out: what, how much was asked for, who holds the rest, and the command that takes less."""

import re
import resource
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import lightning
import torch
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn

from dali_pipelines.allocation_errors import FailedAllocation, find_failed_allocation
from ocr.config import TrainConfig
from ocr.errors import OutOfMemory
from ocr.machine import free_ram, resident_set, total_ram

KEEP_LITTLE = ("baseline", "constrained")
"""Presets whose caches the one for small GPUs would not make smaller."""
SMALLER_SIDE = 0.75
"""Where the batch is one image already, the next thing to make smaller is the image."""


@dataclass(frozen=True)
class Remedy:
    """A command to try."""

    why: str
    changes: Mapping[str, str]
    """Overrides, in place of those that were given for the same keys."""


def training_remedies(config: TrainConfig, checkpoint: Path | None, in_validation: bool) -> list[Remedy]:
    """A smaller batch first; then a still smaller one, with the preset for small GPUs where that keeps less; for a batch of one
    image smaller images at last."""
    name = "eval_batch_size" if in_validation else "batch_size"
    key, batch_size = f"dataloader.{name}", getattr(config.dataloader, name)
    resume = {"resume": str(checkpoint)} if checkpoint is not None and checkpoint.is_file() else {}
    goes_on = ", from the last checkpoint on" if resume else ""
    remedies = []
    if batch_size > 1:
        half = {key: str(batch_size // 2)}
        remedies.append(Remedy(f"with half the {'validation ' if in_validation else ''}batch{goes_on}", half | resume))
    changes = {key: str(max(batch_size // 4, 1))}
    if _preset() not in KEEP_LITTLE:
        changes["performance"] = "constrained"
        remedies.append(Remedy("with less in the caches too", changes | resume))
    elif batch_size > 3:
        remedies.append(Remedy("with a quarter of it", changes | resume))
    if batch_size == 1:
        crop_size = None if in_validation else config.pipeline.augmentation.crop_size
        side = "pipeline.image_size" if crop_size is None else "pipeline.augmentation.crop_size"
        smaller = str(_smaller_side(crop_size or config.pipeline.image_size))
        remedies.append(Remedy("with smaller images", changes | {side: smaller} | resume))
    return remedies


def _preset() -> str | None:
    """The one this run has; None also where no script was started."""
    return HydraConfig.get().runtime.choices.get("performance") if HydraConfig.initialized() else None


def inference_remedies(batch_size: int, image_size: int) -> list[Remedy]:
    """Of evaluate.py and predict.py."""
    if batch_size > 1:
        return [Remedy("with half the batch", {"batch_size": str(batch_size // 2)})]
    return [
        Remedy(
            "with smaller images (the result changes)",
            {"batch_size": "1", "image_size": str(_smaller_side(image_size))},
        )
    ]


def _smaller_side(side: int) -> int:
    return max(int(SMALLER_SIDE * side) // 32 * 32, 32)


def command(changes: Mapping[str, str]) -> str:
    """This run's own command with some overrides changed, for a shell; the overrides alone where no script was started."""
    changed = [f"{key}={_hydra_value(value)}" for key, value in changes.items()]
    if not HydraConfig.initialized():
        return " ".join(map(shlex.quote, changed))
    hydra = HydraConfig.get()
    kept = [given for given in hydra.overrides.task if given.lstrip("+~").partition("=")[0] not in changes]
    script = f"scripts/{hydra.job.config_name}.py"  # the job's name is another one in processes that Lightning starts for DDP
    return " ".join(["uv run", script, *map(shlex.quote, [*kept, *changed])])


def _hydra_value(value: str) -> str:
    """Quoted where Hydra's grammar would read it in another way. A backslash stands for itself, but before a quote or the end."""
    if re.fullmatch(r"[\w./:%@+-]+", value, re.ASCII):
        return value
    doubled = re.sub(r"(\\+)('|$)", r"\1\1\2", value)
    return "'" + doubled.replace("'", "\\'") + "'"


def remedy_lines(remedies: Sequence[Remedy]) -> str:
    """What to paste, one command after the other."""
    lines = []
    for number, remedy in enumerate(remedies):
        lines.append(f"{'To run it' if number == 0 else 'If that is not enough,'} {remedy.why}:")
        lines.append(f"  {command(remedy.changes)}")
    return "\n".join(lines)


def explained(
    shortage: FailedAllocation, *, when: str, cache_bytes: Mapping[str, int], remedies: Sequence[Remedy]
) -> OutOfMemory:
    """The error that tells all; measures who holds what now.

    Args:
        when: of the run, as in "in training, epoch 3".
        cache_bytes: by tier, gpu and ram.
    """
    on_gpu = shortage.memory == "GPU memory" and torch.cuda.is_available()
    free, total = torch.cuda.mem_get_info() if on_gpu else (free_ram(), total_ram())
    asked = "more than there was" if shortage.num_bytes is None else _megabytes(shortage.num_bytes)
    what = f"{shortage.memory} ran out {when}".rstrip()
    lines = [f"{what}: {shortage.requested_by} asked for {asked}, {_megabytes(free)} of {_megabytes(total)} were free."]
    if on_gpu:
        held, in_use = torch.cuda.memory_reserved(), torch.cuda.memory_allocated()
        caches = cache_bytes.get("gpu", 0)
        lines.append(
            f"  torch: {_megabytes(held)}, of that {_megabytes(caches)} caches and {_megabytes(held - in_use)} not in use"
        )
        lines.append(f"  DALI, CUDA itself and other programs: {_megabytes(max(total - free - held, 0))}")
        if shortage.num_bytes is not None and held - in_use > shortage.num_bytes:
            lines.append(
                "  What torch does not use is in pieces; PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True before the command may "
                "help."
            )
    else:
        held = resident_set()
        lines.append(f"  this process: {_megabytes(held)}, of that {_megabytes(cache_bytes.get('ram', 0))} caches")
        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit != resource.RLIM_INFINITY:
            lines.append(f"  its address space is limited to {_megabytes(limit)} (ulimit -v)")
        lines.append(f"  workers, other programs and the system: {_megabytes(max(total - free - held, 0))}")
    if remedies:
        lines.append(remedy_lines(remedies))
    return OutOfMemory("\n".join(lines))


class ExplainShortages(Callback):
    """Within its `with` block a failed allocation ends as `OutOfMemory`; every other error passes.

    As a callback of the trainer it looks at the memory while the run still holds it: Lightning frees much of it before the
    error comes out.

    Args:
        remedies: what to try; told whether it happened in a validation.
        when: what the message says of the time before a trainer is at work.
    """

    def __init__(
        self,
        remedies: Callable[[bool], Sequence[Remedy]] = lambda in_validation: (),
        when: str = "before the first step",
    ) -> None:
        self._remedies = remedies
        self._when = when
        self._seen: OutOfMemory | None = None

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._when = f"in training, epoch {trainer.current_epoch + 1}"

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        epoch = f", epoch {trainer.current_epoch + 1}" if trainer.state.fn == TrainerFn.FITTING else ""
        self._when = f"in validation{epoch}"

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.on_train_epoch_start(trainer, pl_module)

    def on_predict_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._when = "in prediction"

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        shortage = find_failed_allocation(exception)
        if shortage is not None:
            datamodule: Any = getattr(trainer, "datamodule", None)
            self._seen = self._explained(shortage, {} if datamodule is None else datamodule.cache_bytes)

    def _explained(self, shortage: FailedAllocation, cache_bytes: Mapping[str, int]) -> OutOfMemory:
        remedies = self._remedies(self._when.startswith("in validation"))
        return explained(shortage, when=self._when, cache_bytes=cache_bytes, remedies=remedies)

    def __enter__(self) -> "ExplainShortages":
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        shortage = None if isinstance(error, OutOfMemory) else find_failed_allocation(error)
        if shortage is not None:
            raise self._seen or self._explained(shortage, {}) from error


def _megabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:,.0f} MB"
