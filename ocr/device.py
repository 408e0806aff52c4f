"""Chooses the device and the precision of a run."""

import functools
import logging
import math
import os
from pathlib import Path

import torch

from dali_pipelines.config import PipelineConfig
from ocr.config import Device
from ocr.errors import InputError
from ocr.loaders.config import DataLoaderConfig
from ocr.machine import total_ram

log = logging.getLogger(__name__)

DEVICES = Path("/dev")
_REMEDY = (
    "PyTorch's builds for CUDA 13 need driver 580 or newer. Update the driver, or install a build for yours and set UV_NO_SYNC=1, "
    "without which uv run puts the first build back: export UV_NO_SYNC=1; uv pip install --no-config --torch-backend=auto "
    "--reinstall-package torch --reinstall-package torchvision torch torchvision"
)

AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
"""Autocast type of each mixed precision; 32-true has none."""

BYTES_PER_PIXEL = 1024
"""Memory of the network per input pixel in evaluation. In float32 on a CPU, ResNet-18 and ResNet-50 took 520 to 740."""
TRAINING_BYTES_PER_PIXEL = 4096
"""Memory of a training step per input pixel. In float32 on a CPU, ResNet-18 took 1,600 and ResNet-50 4,000."""
TRAINING_SHARE = 1 / 2
"""Share of the device's memory that a training step may take where the size of the input is chosen."""
MOST_IMAGES = {"cpu": 4, "cuda": 32}
"""Largest number of images per forward pass that is chosen; more save no time on a CPU."""
MEMORY_SHARE = {"cpu": 1 / 8, "cuda": 1 / 4}
"""Share of the device's memory that they may take."""


def resolve_device(device: Device) -> torch.device:
    """Returns the device; auto is a GPU if PyTorch can use one. If it cannot use one that this machine has, a warning says why.

    The GPU is the current one of this thread: 0, or in a training the one of its rank.

    Raises:
        InputError: device=gpu, and PyTorch can use no GPU.
    """
    if device == "cpu":
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device() if torch.cuda.is_initialized() else 0)
    if device == "gpu":
        reason = why_no_gpu()
        remedy = f" {_REMEDY}." if _has_gpu() else ""
        raise InputError(f"device=gpu: PyTorch can use no GPU ({reason}).{remedy} Or use device=auto or device=cpu")
    if _has_gpu():
        _warn_of_unused_gpu()
    return torch.device("cpu")


def why_no_gpu() -> str:
    """Returns why PyTorch can use no GPU, in its own words."""
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:  # the latter from a build without CUDA
        return " ".join(str(error).split())
    return "it finds none"


def _has_gpu() -> bool:
    """Returns whether this machine has a GPU of NVIDIA's that is not hidden from this process."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1")
    return not hidden and any(DEVICES.glob("nvidia[0-9]*"))


@functools.cache
def _warn_of_unused_gpu() -> None:
    """Logs that the CPU is used in place of a GPU, once per process."""
    log.warning(
        "This machine has an NVIDIA GPU, but PyTorch %s cannot use it, so the CPU is used, which is many times slower: %s. %s. "
        "device=cpu silences this warning",
        torch.__version__,
        why_no_gpu(),
        _REMEDY,
    )


def resolve_precision(precision: str, device: torch.device) -> str:
    """Returns Lightning's name for the precision.

    auto is bf16-mixed on hardware that computes faster in bfloat16, otherwise 16-mixed on a GPU and 32-true on a CPU. The rule
    looks at the hardware only, so every run on a machine gets the same precision. The ranks of a run have that of the first one.
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


def resolve_loading(dataloader: DataLoaderConfig, image_size: int, device: torch.device) -> DataLoaderConfig:
    """Returns the settings with the batch size of evaluation that suits the device, if it is 0.

    It follows from the device's whole memory, so it is the same in each run, whatever else runs.

    Args:
        image_size: side of the input in pixels.
    """
    if dataloader.eval_batch_size != 0:
        return dataloader
    number = fitting_images(total_memory(device), image_size, device.type)
    return dataloader.model_copy(update={"eval_batch_size": number})


def fitting_images(memory: int, image_size: int, device_type: str) -> int:
    """Returns the images per forward pass, a power of two, for a device with `memory` bytes."""
    images = int(MEMORY_SHARE[device_type] * memory / (BYTES_PER_PIXEL * image_size**2))
    return 1 << (min(max(images, 1), MOST_IMAGES[device_type]).bit_length() - 1)


def largest_image_size(memory: int, pipeline: PipelineConfig, batch_size: int, device_type: str) -> int:
    """Returns the largest size of the input, a multiple of 32, that is chosen for a device with `memory` bytes.

    Args:
        batch_size: images of a training batch; without a crop_size of their own they are as large as in evaluation.
    """
    pixels = MEMORY_SHARE[device_type] * memory / BYTES_PER_PIXEL
    if pipeline.augmentation.crop_size is None:
        pixels = min(pixels, TRAINING_SHARE * memory / (TRAINING_BYTES_PER_PIXEL * batch_size))
    return max(math.isqrt(int(pixels)) // 32 * 32, 32)


def total_memory(device: torch.device) -> int:
    """Returns the bytes of memory that a device has: of a GPU, or of this machine."""
    return torch.cuda.mem_get_info(device)[1] if device.type == "cuda" else total_ram()


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
