"""Configuration of scripts/compare_loaders.py: the keys of a training run, and what to measure for how long."""

from collections.abc import Sequence
from typing import Literal, get_args

from pydantic import Field

from ocr.config import TrainConfig

Level = Literal["decode", "input", "input+targets", "train-step", "val-epoch"]
LEVELS: tuple[Level, ...] = get_args(Level)
WITH_NETWORK: tuple[Level, ...] = ("train-step", "val-epoch")
"""Levels at which a replayed batch is the limit; without a network, replaying takes no time at all."""


class MeasureConfig(TrainConfig):
    """The configuration of a training run, and how to measure it."""

    only: tuple[str, ...] = ()
    """Names to measure; empty: all."""
    rounds: int = Field(default=3, ge=1)
    """Number of times that each measurement is repeated, in turns with the others."""
    seconds: float = Field(default=0.2, gt=0)
    """Minimum length of a round; whole epochs are measured."""
    num_images: int | None = Field(default=None, ge=1)
    """Images of an epoch, spread evenly over the split, which repeats if it has fewer; null: 64, or 8 batches per worker."""
    step_batches: int | None = Field(default=None, ge=2)
    """Batches of an epoch at levels with a network; null: 2 on a CPU, 24 on a GPU."""
    augment: bool = False
    """Measure random training crops instead of whole images; only this project's loaders make them."""


class CompareConfig(MeasureConfig):
    """The run to compare loaders for, and how to compare them."""

    levels: tuple[Level, ...] = Field(default=LEVELS, min_length=1)
    """decode: files to pixels. input: decode, resize, normalise, batch. input+targets: input and target maps. train-step:
    input+targets and the network. val-epoch: a validation epoch after the first, post-processing and metric included."""
    only: tuple[str, ...] = ()
    """Rows to measure; torch stands for torch, torch_ram and torch_tensors; empty: all."""
    cold: bool = True
    """Measure `input` a second time, with the files dropped from the page cache before each epoch."""
    sweep: bool = True
    """First find the best number of workers for each row; false: dataloader.num_workers and pipeline.num_threads."""


SHORT_FLAGS = ("only", "rounds", "seconds")


def as_overrides(arguments: Sequence[str], example: str = "dali,torch") -> list[str]:
    """Returns `--rounds 5` and `--rounds=5` as Hydra's `rounds=5`, `--only a,b` as `only=[a,b]`, everything else unchanged.

    Args:
        example: a value of --only, for the error.

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
            raise SystemExit(f"--{flag} needs a value, as in --{flag} {example if flag == 'only' else 3}")
        overrides.append(f"only=[{value}]" if flag == "only" else f"{flag}={value}")
    return overrides


def training_overrides(
    command: Sequence[str], config_class: type[MeasureConfig], more_keys: Sequence[str] = ()
) -> list[str]:
    """Returns the arguments of a command that scripts/train.py takes too.

    Args:
        config_class: configuration of the command.
        more_keys: keys to leave out besides those that only `config_class` has.
    """
    own_keys = [key for key in config_class.model_fields if key not in TrainConfig.model_fields]
    left_out = (*(f"{key}=" for key in (*own_keys, *more_keys)), "hydra.", "hydra/")
    return [argument for argument in command[1:] if "=" in argument and not argument.lstrip("+").startswith(left_out)]
