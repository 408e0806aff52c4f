"""Imports packages that only the benchmark needs."""

import importlib
from typing import Any

from benchmarks.loaders.row_loader import CannotRun


def optional_module(name: str) -> Any:
    """Imports a module.

    Raises:
        CannotRun: its package is not installed, or cannot be imported.
    """
    package = name.partition(".")[0]
    try:
        importlib.import_module(package)
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise CannotRun(f"{package} is not installed: uv sync --extra bench") from error
    except (ImportError, OSError, RuntimeError) as error:  # torchvision built for another torch raises RuntimeError
        raise CannotRun(f"{package} cannot be imported: {error}") from error
