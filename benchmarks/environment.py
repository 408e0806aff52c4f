"""The machine, versions and command that are written beside every result."""

import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from dali_pipelines.config import num_cores
from ocr.device import resolve_device
from ocr.environment import device_name, git_commit, package_versions
from ocr.machine import total_ram
from ocr.program import in_users_words

RIVAL_PACKAGES = ("albumentations", "spdl", "torchvision", "webdataset")


def provenance(device: torch.device | None = None, more_packages: Sequence[str] = ()) -> dict[str, Any]:
    """Returns command, device, versions and commit.

    Args:
        device: device of the measurement; None: the one that `auto` selects.
        more_packages: versions to list beside those that every run lists.
    """
    return {
        "command": sys.argv,
        "device": device_name(device or resolve_device("auto")),
        "versions": package_versions(*more_packages),
        "commit": git_commit(),
    }


def environment(device: torch.device, program: str) -> dict[str, Any]:
    """Returns `provenance` with the size of the machine.

    Args:
        program: the command up to its arguments, as the user of a checkout types it.
    """
    on_gpu = device.type == "cuda"
    return provenance(device, RIVAL_PACKAGES) | {
        "command": [*in_users_words(program).split(), *sys.argv[1:]],
        "device_type": device.type,
        "driver": _driver() if on_gpu else None,
        "transfer_ms_per_megabyte": _transfer_ms_per_megabyte(device) if on_gpu else None,
        "cores": num_cores(),
        "ram_bytes": total_ram(),
        "gpu_bytes": torch.cuda.get_device_properties(device).total_memory if on_gpu else None,
        "started": time.strftime("%Y-%m-%d %H:%M:%S %z"),
    }


def _driver() -> str | None:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _transfer_ms_per_megabyte(device: torch.device) -> float:
    """Returns the time to copy a megabyte from pinned RAM to the GPU."""
    pinned = torch.empty(64_000_000, dtype=torch.uint8, pin_memory=True)
    for _ in range(2):  # the first one warms up
        torch.cuda.synchronize(device)
        started = time.perf_counter()
        pinned.to(device)
        torch.cuda.synchronize(device)
    return 1000 * (time.perf_counter() - started) / 64


def environment_lines(environment: Mapping[str, Any], inputs: str) -> list[str]:
    """Returns the head of a report, one fact per line.

    Args:
        inputs: line on the images, sizes and batches that were measured.
    """
    versions = ", ".join(f"{name} {version}" for name, version in environment["versions"].items() if version)
    cores = "1 core" if environment["cores"] == 1 else f"{environment['cores']} cores"
    return [
        f"machine: {environment['device']}, {cores}, {environment['ram_bytes'] / 1e9:.0f} GB RAM",
        f"started: {environment['started']}, commit {environment['commit']}",
        f"command: `{shlex.join(environment['command'])}`",
        inputs,
        f"versions: {versions}",
    ]
