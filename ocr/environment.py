"""Describes where a result comes from: machine, package versions, code, commit."""

import ast
import hashlib
import os
import platform
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import cv2

if TYPE_CHECKING:  # the processes that draw pictures read this file too, and do not load torch
    import torch

PACKAGES = (
    "dali-dbnet",
    "lightning",
    "numba",
    "numpy",
    "pillow",
    "pyclipper",
    "simplejpeg",
    "timm",
    "torch",
)


def cache_folder() -> Path:
    """Returns the user's folder for what can be made again: dali-dbnet in $XDG_CACHE_HOME or ~/.cache.

    A user without a home folder, as in some containers, gets one among the temporary files.
    """
    given = os.environ.get("XDG_CACHE_HOME")
    try:
        parent = Path(given) if given else Path.home() / ".cache"
    except RuntimeError:
        parent = Path(tempfile.gettempdir(), f"cache-of-user-{getattr(os, 'getuid', int)()}")
    return parent.absolute() / "dali-dbnet"


def package_versions(*more: str) -> dict[str, str | None]:
    """Returns the versions of Python, of the packages that results depend on, and of `more`; None for a package that is missing."""
    return {
        "python": platform.python_version(),
        "nvidia-dali": dali_version(),  # its package is named after the CUDA version, OpenCV's after its build
        "opencv": cv2.__version__,
        **{name: _version(name) for name in (*PACKAGES, *more)},
    }


def dali_version() -> str | None:
    """Returns the version of NVIDIA DALI; None where it cannot be imported."""
    try:
        # Not `import nvidia.dali`, which also accepts the empty folders that a removed package may leave.
        from nvidia.dali import __version__
    except ImportError:
        return None
    return str(__version__)


@cache  # a search through all installed packages takes milliseconds
def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def device_name(device: "torch.device") -> str:
    """Returns the name of the device for reports: the GPU's, or the processor's with the number of threads."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    num_threads = torch.get_num_threads()
    return f"{_cpu_name()}, {num_threads} {'thread' if num_threads == 1 else 'threads'}"


def _cpu_name() -> str:
    """Returns the processor's model where Linux names it, otherwise its architecture."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


_PARSING = threading.Lock()
"""Held while a file is parsed: before Python 3.12, `ast.parse` in two threads may end with `SystemError: AST constructor recursion
depth mismatch` when the garbage collector switches between them."""


def digest_of_sources(sources: Sequence[Path]) -> str:
    """Returns the SHA-256, in hex, of the names and the code of the Python files among and below `sources`.

    Comments, docstrings and formatting do not count, and every version of Python gives the same digest.
    """
    digest = hashlib.sha256()
    for source in sources:
        for file in sorted(source.rglob("*.py")) if source.is_dir() else [source]:
            with _PARSING:
                code = _structure(ast.parse(file.read_bytes()))
            digest.update(f"{file.relative_to(source.parent)}\0{code}\0".encode())
    return digest.hexdigest()


def _structure(node: object) -> str:
    """Returns a syntax tree as text. `ast.dump` would write the same tree differently in another version of Python."""
    if isinstance(node, list):
        return "[" + ",".join(_structure(item) for item in node if not _has_no_effect(item)) + "]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = {name: _structure(value) for name, value in ast.iter_fields(node) if value is not None}
    return f"{type(node).__name__}({','.join(f'{name}={text}' for name, text in fields.items() if text != '[]')})"


def _has_no_effect(node: object) -> bool:
    """Returns whether a statement is only a constant: `...`, or the docstring of a module, class, function or field."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def git_commit() -> str | None:
    """Returns the checked-out commit, with -dirty if files differ from it.

    Outside a checkout, as in a wheel, it returns DALI_DBNET_COMMIT, which the container images of docker/ set, or None.
    """
    file = Path(__file__)
    git = ["git", "-C", str(file.parent)]
    # A package that lies in the environment of another project, below its folder, is no file of that project.
    is_tracked = [*git, "ls-files", "--error-unmatch", file.name]
    describe = [*git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]  # tags have no place in a commit
    try:
        subprocess.run(is_tracked, capture_output=True, check=True)
        return subprocess.run(describe, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("DALI_DBNET_COMMIT")
