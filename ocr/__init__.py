"""Text detection with DBNet: data sets, targets, network, training, post-processing, metrics."""

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ocr.detector import TextDetector

    __version__: str

__all__ = ["TextDetector", "__version__"]

# OpenMP reads this when torch loads it. By default its threads spin while they wait for each other. Where DALI's threads or other
# processes share the cores, they spin for threads that cannot run: 3 instead of 15 images/s on two shared cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def __getattr__(name: str) -> Any:
    """Imports `TextDetector`, and torch with it, when it is first used; reads `__version__` from the installed package."""
    if name == "__version__":
        return _installed_version()
    if name != "TextDetector":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ocr.detector import TextDetector

    return TextDetector


def _installed_version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("dali-dbnet")
    except PackageNotFoundError:  # a checkout on the path, not installed
        return "unknown"
