"""Which machine, driver and libraries, and which JPEG engines show themselves."""

import ctypes
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import nvidia
import torch
from nvidia.dali import backend

from benchmarks.gpu_check.figures import Keep
from benchmarks.gpu_check.images import device_of
from benchmarks.gpu_check.settings import CheckSettings
from ocr.environment import device_name, git_commit, package_versions
from ocr.errors import InputError
from ocr.machine import total_ram

NOT_TOLD = "not told by the driver"


def measure(settings: CheckSettings, keep: Keep) -> None:
    """Raises InputError where a GPU is wanted and there is none."""
    if not settings.cpu and not torch.cuda.is_available():
        raise InputError("torch sees no CUDA device; add --cpu to check what can be checked without one")
    device = device_of(settings)
    figures: dict[str, Any] = {
        "started": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "commit": git_commit(),
        "device": device_name(device),
        "cores": len(os.sched_getaffinity(0)),
        "ram_bytes": total_ram(),
        "versions": package_versions("hydra-core", "pydantic", "pytest"),
        "torch_cuda": torch.version.cuda,
        "dali_cuda": _dotted(backend.__cuda_version__),  # type: ignore[attr-defined]  # its stub leaves it out
        "nvjpeg": _nvjpeg_version(),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        figures |= {
            "gpu_bytes": properties.total_memory,
            "compute_capability": f"{properties.major}.{properties.minor}",
            "bfloat16": torch.cuda.is_bf16_supported(including_emulation=False),
            **_driver(),
            "jpeg_engines": _jpeg_engines(device),
        }
    keep(figures)


def _dotted(version: int) -> str:
    """12986 is 12.9.86."""
    return f"{version // 1000}.{version % 1000 // 100}.{version % 100}"


def _driver() -> dict[str, Any]:
    """By NVML, the driver's own library."""
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return {"driver": None, "driver_cuda": None}
    text, cuda = ctypes.create_string_buffer(80), ctypes.c_int()
    nvml.nvmlInit_v2()
    driver = text.value.decode() if nvml.nvmlSystemGetDriverVersion(text, 80) == 0 else None
    driver_cuda = None
    if nvml.nvmlSystemGetCudaDriverVersion_v2(ctypes.byref(cuda)) == 0:
        driver_cuda = f"{cuda.value // 1000}.{cuda.value % 1000 // 10}"
    nvml.nvmlShutdown()
    return {"driver": driver, "driver_cuda": driver_cuda}


def _jpeg_engines(device: torch.device) -> dict[str, Any]:
    """What nvJPEG and nvidia-smi know of them."""
    torch.zeros(1, device=device)  # nvJPEG needs a context
    return {"nvjpeg": _nvjpeg_engines(), "utilization": _jpeg_utilization(device)}


def _nvjpeg() -> ctypes.CDLL:
    """The library that DALI's decoder opens.

    Raises:
        OSError: it is not there.
    """
    for folder in nvidia.__path__:
        for path in sorted(Path(folder).glob("nvjpeg/lib*/libnvjpeg.so*")):
            return ctypes.CDLL(str(path))
    return ctypes.CDLL("libnvjpeg.so.12")


def _nvjpeg_version() -> str | None:
    number = ctypes.c_int()
    try:
        nvjpeg = _nvjpeg()
    except OSError:
        return None
    numbers = []
    for kind in range(3):  # MAJOR_VERSION, MINOR_VERSION, PATCH_LEVEL
        nvjpeg.nvjpegGetProperty(kind, ctypes.byref(number))
        numbers.append(str(number.value))
    return ".".join(numbers)


HARDWARE_BACKEND = 3
"""NVJPEG_BACKEND_HARDWARE of nvjpeg.h."""


def _nvjpeg_engines() -> dict[str, int] | str:
    """nvJPEG refuses its hardware backend where there is no engine."""
    handle, engines, cores = ctypes.c_void_p(), ctypes.c_uint(), ctypes.c_uint()
    try:
        nvjpeg = _nvjpeg()
        status = nvjpeg.nvjpegCreateEx(HARDWARE_BACKEND, None, None, 0, ctypes.byref(handle))
        if status != 0:
            return f"nvJPEG refuses its hardware backend with status {status}"
        status = nvjpeg.nvjpegGetHardwareDecoderInfo(handle, ctypes.byref(engines), ctypes.byref(cores))
        nvjpeg.nvjpegDestroy(handle)
    except (OSError, AttributeError) as error:
        return f"{NOT_TOLD}: {error}"
    if status != 0:
        return f"{NOT_TOLD}: nvjpegGetHardwareDecoderInfo gives status {status}"
    return {"engines": engines.value, "cores_per_engine": cores.value}


def _jpeg_utilization(device: torch.device) -> str:
    """Of the engines, as nvidia-smi prints it; it says N/A where there are none."""
    command = ["nvidia-smi", "--query-gpu=utilization.jpeg", "--format=csv,noheader", f"--id={device.index or 0}"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.SubprocessError) as error:
        return f"{NOT_TOLD}: {error}"
    return said.stdout.strip() if said.returncode == 0 else NOT_TOLD
