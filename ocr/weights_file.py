"""Files of weights in the safetensors format: tensors by name, and text about them. Reading one runs no code of the file."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ocr.atomic_write import write_durably
from ocr.errors import InputError
from ocr.given_files import WEIGHTS_EXTENSION


def is_weights_file(path: str | Path) -> bool:
    """Returns whether the file's name says that it holds weights in the safetensors format."""
    return Path(path).suffix.lower() == WEIGHTS_EXTENSION


def read_weights_file(path: Path, key: str) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Returns the text and the tensors of a file, on the CPU, with the types they are stored in.

    Args:
        key: the setting that names the file, for messages.

    Raises:
        InputError: not a whole file of this format.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {}), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(
            f"{key}={path}: not readable as weights: found a damaged or cut file, or one of another kind, of "
            f"{path.stat().st_size:,} bytes ({type(error).__name__}); expected a whole {WEIGHTS_EXTENSION} file; copy it again"
        ) from error


def write_weights_file(path: Path, state: Mapping[str, Tensor], text: Mapping[str, str], *, float16: bool) -> None:
    """Writes tensors and text.

    Args:
        float16: store kernels in float16, which halves the file. Vectors (biases, weights and statistics of batch norms) keep their
            type: they take few bytes, and a variance may lie outside the range of float16.

    Raises:
        InputError: a kernel lies outside the range of float16.
    """
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    if float16:
        stored = {name: tensor.half() if _is_kernel(tensor) else tensor for name, tensor in stored.items()}
        too_large = [name for name, tensor in stored.items() if not torch.isfinite(tensor).all()]
        if too_large:
            raise InputError(
                f"precision=float16: {len(too_large)} tensors lie outside the range of float16, first {too_large[0]}; use "
                "precision=float32"
            )
    write_durably(path, save(stored, metadata=dict(text)))


def _is_kernel(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.ndim > 1
