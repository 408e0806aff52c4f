"""What a step gets and leaves."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.gpu_check.settings import CheckSettings

Figures = dict[str, Any]
Keep = Callable[[Figures], None]
"""Takes the figures so far, as often as a step likes: what was kept last counts, also where it fails, hangs or crashes later."""
Measure = Callable[[CheckSettings, Keep], None]


class CannotMeasure(Exception):
    """A step that cannot run here; the message says why."""


def figures_path(output: Path, step: str) -> Path:
    """Where the figures of a step are kept."""
    return output / "steps" / f"{step}.json"
