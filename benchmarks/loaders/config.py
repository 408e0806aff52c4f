"""What compare_loaders.py and sweep_defaults.py can be told: everything a training run can, and how long to measure what."""

from typing import Literal, get_args

from pydantic import Field

from ocr.config import TrainConfig

Level = Literal["decode", "input", "input+targets", "train-step", "val-epoch"]
LEVELS: tuple[Level, ...] = get_args(Level)
WITH_NETWORK: tuple[Level, ...] = ("train-step", "val-epoch")
"""Where a batch that is there already is a limit: without a network handing it out takes no time at all."""


class MeasureConfig(TrainConfig):
    """The configuration of the run that is measured for, and how it is measured."""

    only: tuple[str, ...] = ()
    """What to measure, by name; empty: all."""
    rounds: int = Field(default=3, ge=1)
    """Each measurement is made so many times, in turns with the others."""
    seconds: float = Field(default=0.2, gt=0)
    """Least length of a measurement; whole epochs are measured."""
    num_images: int | None = Field(default=None, ge=1)
    """Images of an epoch, spread evenly over the split, or the split again and again; null: 64, or 8 batches a worker."""
    step_batches: int | None = Field(default=None, ge=2)
    """Batches of an epoch where the network takes part; null: 2 on a CPU, 24 on a GPU."""
    augment: bool = False
    """Training crops as the plan draws them, instead of whole images; only this project's loaders make them."""


class CompareConfig(MeasureConfig):
    """scripts/compare_loaders.py: the configuration of the run to compare loaders for, and how they are compared."""

    levels: tuple[Level, ...] = Field(default=LEVELS, min_length=1)
    """decode: files to pixels. input: decode, resize, normalise, batch. input+targets: with target maps. train-step: with the
    network. val-epoch: a validation epoch after the first, post-processing and metric included."""
    only: tuple[str, ...] = ()
    """Rows to measure: torch is torch, torch_ram and torch_tensors; empty: all."""
    cold: bool = True
    """Measure `input` a second time, with the files dropped from the page cache before each epoch."""
    sweep: bool = True
    """Find the number of worker processes and of threads first; otherwise dataloader.num_workers and pipeline.num_threads."""


class SweepConfig(MeasureConfig):
    """scripts/sweep_defaults.py: the configuration that settings are varied around, and how they are measured."""

    only: tuple[str, ...] = ()
    """Settings to vary, by the last part of their key; empty: all that exist on this device."""
    rounds: int = Field(default=5, ge=3)
    """Each value is measured so many times, in turns with the present one. A value counts as better only if all of its rounds
    are; fewer than 3 tell nothing."""
    seconds: float = Field(default=0.5, gt=0)
    """Least length of a measurement; whole epochs are measured."""
    num_images: int | None = Field(default=None, ge=1)
    """Images of an epoch of the loader alone, spread evenly over the split, or the split again and again; null: 16 batches on a
    CPU, 64 on a GPU."""
    combine: bool = True
    """Measure all the better values together at the end, beside the present configuration."""


SHORT_FLAGS = ("only", "rounds", "seconds")


def as_overrides(arguments: list[str], only_such_as: str = "dali,torch") -> list[str]:
    """`--rounds 5` and `--rounds=5` as Hydra's `rounds=5`, and `--only a,b` as `only=[a,b]`; everything else as it is.

    Raises:
        SystemExit: one of these flags has no value.
    """
    overrides, rest = [], iter(arguments)
    for argument in rest:
        flag, has_value, value = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or flag not in SHORT_FLAGS:
            overrides.append(argument)
            continue
        if not has_value:
            value = next(rest, "")
        if not value:
            raise SystemExit(f"--{flag} needs a value, as in --{flag} {only_such_as if flag == 'only' else 3}")
        overrides.append(f"only=[{value}]" if flag == "only" else f"{flag}={value}")
    return overrides
