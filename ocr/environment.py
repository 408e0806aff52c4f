"""Where a number comes from: machine, versions, commit."""

import hashlib
import os
import platform
import subprocess
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import cv2
import nvidia.dali
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


def package_versions(*more: str) -> dict[str, str | None]:
    """Python's version and those of the packages that results depend on, and of `more`; None for one that is not installed, or
    under another name."""
    return {
        "python": platform.python_version(),
        "nvidia-dali": nvidia.dali.__version__,  # its package is named after the CUDA version, OpenCV's after its build
        "opencv": cv2.__version__,
        **{name: _version(name) for name in (*PACKAGES, *more)},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def device_name(device: torch.device) -> str:
    """What to call the device beside a number."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_cpu_name()}, {torch.get_num_threads()} threads"


def _cpu_name() -> str:
    """The processor's model, as Linux names it; its architecture elsewhere."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def digest_of_sources(sources: Sequence[Path]) -> str:
    """SHA-256 of the Python files among and below `sources`, names included."""
    digest = hashlib.sha256()
    for source in sources:
        for file in sorted(source.rglob("*.py")) if source.is_dir() else [source]:
            digest.update(f"{file.relative_to(source.parent)}\0".encode() + file.read_bytes() + b"\0")
    return digest.hexdigest()


def git_commit() -> str | None:
    """The commit this code is at, with -dirty where files differ from it. Outside of a checkout what DALI_DBNET_COMMIT says, as in
    the images of docker/; else None."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("DALI_DBNET_COMMIT")
