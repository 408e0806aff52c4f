"""Machine, driver, versions and JPEG engines"""

import ctypes
import os
import re
import subprocess
from pathlib import Path

import nvidia
import pytest
import torch
from nvidia.dali import backend

from ocr.environment import device_name, git_commit, package_versions
from ocr.machine import total_ram

pytestmark = pytest.mark.gpu

HARDWARE_BACKEND = 3
"""NVJPEG_BACKEND_HARDWARE in nvjpeg.h"""


def test_the_machine_is_described(device, record):
    record("device", device_name(device))
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        record("GPU memory", round(properties.total_memory / 1e9, 1), "GB")
        record("compute capability", f"{properties.major}.{properties.minor}")
        record("computes bfloat16", torch.cuda.is_bf16_supported(including_emulation=False))
    record("processor cores of this process", len(os.sched_getaffinity(0)))
    record("RAM", round(total_ram() / 1e9, 1), "GB")
    record("commit", git_commit())
    record("versions", package_versions("hydra-core", "pydantic", "pytest"))


def test_the_driver_and_jpeg_library_are_found(device, record):
    dali_cuda, nvjpeg = _dotted(backend.__cuda_version__), _nvjpeg_version()  # CUDA 13 in docker/Dockerfile
    record("CUDA of torch", torch.version.cuda)
    record("CUDA of DALI", dali_cuda)
    record("nvJPEG", nvjpeg)
    assert dali_cuda.partition(".")[0] in ("12", "13")
    assert re.fullmatch(r"\d+\.\d+\.\d+", nvjpeg)
    if device.type == "cuda":
        torch.zeros(1, device=device)  # nvJPEG needs a context
        record("JPEG engines", _nvjpeg_engines())
        for name, key in (
            ("driver", "Driver Version"),
            ("newest CUDA of the driver", "CUDA Version"),
            ("JPEG use", "JPEG"),
        ):
            record(name, _nvidia_smi(key))
        assert re.fullmatch(r"\d+\.\d+(\.\d+)?", _nvidia_smi("Driver Version"))


def _dotted(version: int) -> str:
    """Returns 12.9.86 for 12986."""
    return f"{version // 1000}.{version % 1000 // 100}.{version % 100}"


def _nvidia_smi(key: str) -> str:
    """Returns the first value that `nvidia-smi --query` prints for a key; JPEG is N/A on a GPU without engines."""
    output = subprocess.run(["nvidia-smi", "--query"], capture_output=True, text=True, timeout=20, check=True).stdout
    found = re.search(rf"^ *{key} *: (.+)$", output, re.MULTILINE)
    return found[1].strip() if found else "unknown"


def _nvjpeg() -> ctypes.CDLL:
    """Returns the library that DALI's decoder opens. Raises OSError if it is missing."""
    name = f"libnvjpeg.so.{backend.__cuda_version__ // 1000}"
    for folder in nvidia.__path__:
        for path in sorted(Path(folder).glob(f"*/lib*/{name}")):  # nvjpeg/lib, or cu13/lib
            return ctypes.CDLL(str(path))
    return ctypes.CDLL(name)


def _nvjpeg_version() -> str:
    nvjpeg, number = _nvjpeg(), ctypes.c_int()
    numbers = []
    for kind in range(3):  # MAJOR_VERSION, MINOR_VERSION, PATCH_LEVEL
        nvjpeg.nvjpegGetProperty(kind, ctypes.byref(number))
        numbers.append(str(number.value))
    return ".".join(numbers)


def _nvjpeg_engines() -> dict[str, int] | str:
    """Returns the number of engines and their cores, or why they are unknown.

    On a GPU without engines, nvJPEG refuses its hardware backend.
    """
    handle, engines, cores = ctypes.c_void_p(), ctypes.c_uint(), ctypes.c_uint()
    nvjpeg = _nvjpeg()
    status = nvjpeg.nvjpegCreateEx(HARDWARE_BACKEND, None, None, 0, ctypes.byref(handle))
    if status != 0:
        return f"nvJPEG refuses its hardware backend with status {status}"
    try:
        status = nvjpeg.nvjpegGetHardwareDecoderInfo(handle, ctypes.byref(engines), ctypes.byref(cores))
    except AttributeError as error:  # an older nvJPEG
        return f"unknown: {error}"
    finally:
        nvjpeg.nvjpegDestroy(handle)
    return {"engines": engines.value, "cores per engine": cores.value} if status == 0 else f"unknown: status {status}"
