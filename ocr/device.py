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

    auto is bf16-mixed on hardware that computes faster in bfloat16, otherwise 16-mixed on a GPU and 32-true on a CPU. The rule
    looks at the hardware only, so every run on a machine and every rank on equal machines gets the same precision.
    """
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
    return "bf16-mixed" if cpu_is_faster_in_bfloat16() else "32-true"


def resolve_pipeline(pipeline: PipelineConfig, precision: str) -> PipelineConfig:
    """Returns the pipeline with images of the right type for the precision: float32 for 32-true."""
    if precision == "32-true" and pipeline.output_dtype == "auto":
        return pipeline.model_copy(update={"output_dtype": "float32"})
    return pipeline


def cpu_is_faster_in_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Returns whether training on this CPU takes less time in bfloat16 than in float32.

    It does with Intel's matrix unit (AMX), and with the bfloat16 instructions of AVX-512 on AMD processors. Processor time of the
    network of `make demo` in bfloat16, relative to float32: on an AMD EPYC (Zen 5) 0.48 in training and 0.52 in evaluation; on an
    Intel Xeon with the same instructions but without AMX 1.4 and 1.7.

    Args:
        cpuinfo: file in the format of Linux's /proc/cpuinfo; without it the answer is no.
    """
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    fields = {name.strip(): value.split() for name, _, value in (line.partition(":") for line in lines)}
    flags = fields.get("flags", [])
    return "amx_bf16" in flags or ("avx512_bf16" in flags and "AuthenticAMD" in fields.get("vendor_id", []))
