"""Configuration of scripts/sweep_defaults.py."""

from pydantic import Field

from benchmarks.loaders.config import MeasureConfig


class SweepConfig(MeasureConfig):
    """The configuration around which settings are varied, and how to measure it."""

    only: tuple[str, ...] = ()
    """Settings to vary, by the last part of their key; empty: all that exist on this device."""
    rounds: int = Field(default=5, ge=3)
    """Number of times that each value is measured, in turns with the present one. A value counts as better only if all of its
    rounds are; fewer than 3 rounds prove nothing."""
    seconds: float = Field(default=0.5, gt=0)
    """Minimum length of a round; whole epochs are measured."""
    num_images: int | None = Field(default=None, ge=1)
    """Images of an epoch of the loader alone, spread evenly over the split, which repeats if it has fewer; null: 16 batches on a
    CPU, 64 on a GPU."""
    combine: bool = True
    """At the end, measure all better values together, beside the present configuration."""
