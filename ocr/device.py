"""Which device and precision a run uses."""

from pathlib import Path

import torch

from ocr.config import Device
from ocr.errors import InputError


def resolve_device(device: Device, local_rank: int = 0) -> torch.device:
    """auto: a GPU where there is one.

    Raises:
        InputError: a GPU was asked for and there is none.
    """
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise InputError("device=gpu: torch sees no CUDA device; device=auto falls back to the CPU")
    return torch.device("cuda", local_rank)


def resolve_precision(precision: str, device: torch.device) -> str:
    """Lightning's name of the precision; `auto` takes bfloat16 where the hardware computes in it."""
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
    return "bf16-mixed" if _cpu_computes_bfloat16() else "32-true"


def _cpu_computes_bfloat16() -> bool:
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text() if cpuinfo.is_file() else ""
    return "avx512_bf16" in flags or "amx_bf16" in flags
