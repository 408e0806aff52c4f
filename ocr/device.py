"""Chooses the device and the precision of a run."""

from pathlib import Path

import torch

from dali_pipelines.config import PipelineConfig
from ocr.config import Device
from ocr.errors import InputError

AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
"""Autocast type of each mixed precision; 32-true has none."""


def resolve_device(device: Device) -> torch.device:
    """Returns the device; auto is a GPU if there is one.

    Raises:
        InputError: device=gpu, and there is no GPU.
    """
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise InputError("device=gpu: PyTorch finds no CUDA device; use device=auto or device=cpu")
    return torch.device("cuda", 0)


def resolve_precision(precision: str, device: torch.device) -> str:
    """Returns Lightning's name for the precision.

    auto is bf16-mixed on hardware with bfloat16 arithmetic, otherwise 16-mixed on a GPU and 32-true on a CPU.
    """
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
    return "bf16-mixed" if _cpu_computes_bfloat16() else "32-true"


def resolve_pipeline(pipeline: PipelineConfig, precision: str) -> PipelineConfig:
    """Returns the pipeline with images of the right type for the precision: float32 for 32-true."""
    if precision == "32-true" and pipeline.output_dtype == "auto":
        return pipeline.model_copy(update={"output_dtype": "float32"})
    return pipeline


def _cpu_computes_bfloat16() -> bool:
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text() if cpuinfo.is_file() else ""
    return "avx512_bf16" in flags or "amx_bf16" in flags
