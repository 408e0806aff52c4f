"""Commands that need less memory than this run, ready to paste."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra.core.hydra_config import HydraConfig

from ocr.config import TrainConfig

SMALL_CACHE_PRESETS = ("baseline", "constrained")
"""Presets whose caches are no larger than those of `constrained`."""
SMALLER_SIDE = 0.75
"""Factor for the image side, once the batch is down to one image."""


@dataclass(frozen=True)
class Remedy:
    """A command to try."""

    what: str
    """The change, as in "half the batch size"."""
    overrides: Mapping[str, str]
    """Hydra overrides; they replace those given for the same keys."""


def training_remedies(config: TrainConfig, checkpoint: Path | None, in_validation: bool) -> list[Remedy]:
    """Returns what to try after memory ran out in train.py, the mildest change first.

    First half the batch size. Then a quarter of it, with the preset for small GPUs where that has smaller caches. With one image
    per batch, smaller images.

    Args:
        checkpoint: to resume from, if the file exists.
        in_validation: memory ran out in validation, so it is eval_batch_size that counts.
    """
    name = "eval_batch_size" if in_validation else "batch_size"
    key, batch_size = f"dataloader.{name}", getattr(config.dataloader, name)
    has_checkpoint = checkpoint is not None and checkpoint.is_file()
    # Without resume_anyway the resumed run would refuse the other batch size.
    resume = {"resume_anyway": "true", "resume": str(checkpoint)} if has_checkpoint else {}
    resumed = ", resumed from the last checkpoint" if resume else ""
    remedies = []
    if batch_size > 1:
        half = {key: str(batch_size // 2)}
        remedies.append(Remedy(f"half the {'validation ' if in_validation else ''}batch size{resumed}", half | resume))
    overrides = {key: str(max(batch_size // 4, 1))}
    if _preset() not in SMALL_CACHE_PRESETS:
        overrides["performance"] = "constrained"
        remedies.append(Remedy("smaller caches too", overrides | resume))
    elif batch_size > 3:
        remedies.append(Remedy("a quarter of it", overrides | resume))
    if batch_size == 1:
        crop_size = None if in_validation else config.pipeline.augmentation.crop_size
        side = "pipeline.image_size" if crop_size is None else "pipeline.augmentation.crop_size"
        smaller = str(_smaller_side(crop_size or config.pipeline.image_size))
        remedies.append(Remedy("smaller images", overrides | {side: smaller} | resume))
    return remedies


def inference_remedies(batch_size: int, image_size: int) -> list[Remedy]:
    """Returns what to try after memory ran out in evaluate.py or predict.py."""
    if batch_size > 1:
        return [Remedy("half the batch size", {"batch_size": str(batch_size // 2)})]
    overrides = {"batch_size": "1", "image_size": str(_smaller_side(image_size))}
    return [Remedy("smaller images (this changes the results)", overrides)]


def remedy_text(remedies: Sequence[Remedy]) -> str:
    """Returns the commands to paste, each below what it changes."""
    lines = []
    for number, remedy in enumerate(remedies):
        lines.append(f"{'Try' if number == 0 else 'If that is not enough,'} {remedy.what}:")
        lines.append(f"  {command_with(remedy.overrides)}")
    return "\n".join(lines)


def command_with(overrides: Mapping[str, str]) -> str:
    """Returns this run's own command with some overrides replaced, quoted for a shell; outside a script only the overrides."""
    # Paths stay as they are, see ocr/command_line/path_overrides.py.
    changed = [f"{key}={value}" for key, value in overrides.items()]
    if not HydraConfig.initialized():
        return " ".join(map(shlex.quote, changed))
    hydra = HydraConfig.get()
    kept = [given for given in hydra.overrides.task if given.lstrip("+~").partition("=")[0] not in overrides]
    script = f"scripts/{hydra.job.config_name}.py"  # not the job's name: Lightning changes that in its DDP processes
    return " ".join(["uv run", script, *map(shlex.quote, [*kept, *changed])])


def _preset() -> str | None:
    """Returns the performance preset of this run; None without one, or outside a script."""
    return HydraConfig.get().runtime.choices.get("performance") if HydraConfig.initialized() else None


def _smaller_side(side: int) -> int:
    return max(int(SMALLER_SIDE * side) // 32 * 32, 32)
