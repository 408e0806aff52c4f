"""Runs the network of an .onnx file that scripts/export.py wrote, with onnxruntime, in the place of a PyTorch network."""

import json
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from dali_pipelines.config import PipelineConfig
from ocr.checkpoint import CONFIG_KEY
from ocr.config import Device, TrainConfig, described_problems
from ocr.errors import InputError
from ocr.given_files import weights_path
from ocr.models.db_head import ProbMap

INPUT_NAME, OUTPUT_NAME = "images", "prob_map"
"""Names of the graph's input and output."""
_CUDA = "CUDAExecutionProvider"


class OnnxNetwork(nn.Module):
    """The network of an .onnx file. It has no weights that PyTorch knows. Threads may share it.

    Args:
        session: onnxruntime's InferenceSession.
        config: the configuration in the file, for mean and std.
    """

    def __init__(self, session: Any, config: TrainConfig) -> None:
        super().__init__()
        self._session = session
        self._takes_levels = session.get_inputs()[0].type == "tensor(uint8)"
        self._pipeline = config.pipeline

    def forward(self, images: Tensor) -> ProbMap:
        """Returns the map of (B, 3, H, W) normalised images, on their device; H and W are multiples of 32."""
        inputs = images.detach().cpu().float()
        if self._takes_levels:
            inputs = levels_of(inputs, self._pipeline)
        (prob_map,) = self._session.run([OUTPUT_NAME], {INPUT_NAME: np.ascontiguousarray(inputs.numpy())})
        return ProbMap(torch.from_numpy(prob_map).to(images.device))


def levels_of(images: Tensor, config: PipelineConfig) -> Tensor:
    """Returns the RGB levels, (B, H, W, 3) uint8, of (B, 3, H, W) float32 images that were normalised with this mean and std.

    Every loader normalises whole levels, so rounding gives exactly these back.
    """
    mean, std = (torch.tensor(values, dtype=torch.float32)[:, None, None] for values in (config.mean, config.std))
    return (images * std + mean).round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def is_onnx(path: str | Path) -> bool:
    """Returns whether the file's name says that it is an ONNX model."""
    return Path(path).suffix.lower() == ".onnx"


def load_onnx(path: str | Path, device: Device) -> tuple[TrainConfig, OnnxNetwork, Device]:
    """Returns the configuration of an .onnx file, its network, and the device that onnxruntime runs it on: cpu or gpu.

    Raises:
        FileNotFoundError: no such file.
        InputError: not a file of scripts/export.py, onnxruntime is not installed, or device=gpu without onnxruntime's CUDA part.
    """
    path = weights_path(path)
    runtime = import_extra("onnxruntime", f"checkpoint={path}")
    resolved = _resolved_device(runtime, device)
    session = _session(runtime, path, resolved)
    config = _saved_config(session, path)
    return config, OnnxNetwork(session, config), resolved


def import_extra(module: str, needed_by: str) -> Any:
    """Returns a module of the packages of the extra `onnx`.

    Raises:
        InputError: it is not installed; the message has the command that installs it.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise InputError(f"{needed_by}: needs the extra: uv sync --extra onnx") from error


def _resolved_device(runtime: Any, device: Device) -> Device:
    has_gpu = torch.cuda.is_available() and _CUDA in runtime.get_available_providers()
    if device == "gpu" and not has_gpu:
        raise InputError(
            "device=gpu: an .onnx file needs a CUDA device and the package onnxruntime-gpu in the place of onnxruntime; "
            "use device=auto or device=cpu"
        )
    return "gpu" if has_gpu and device != "cpu" else "cpu"


def _session(runtime: Any, path: Path, device: Device) -> Any:
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # As for OpenMP (ocr/__init__.py): waiting threads that spin slow down those that decode and post-process.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3  # errors
    providers = [_CUDA, "CPUExecutionProvider"] if device == "gpu" else ["CPUExecutionProvider"]
    try:
        return runtime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # onnxruntime raises types of its own for damaged files
        raise InputError(
            f"checkpoint={path}: onnxruntime cannot read it ({type(error).__name__}); expected a whole file written by "
            "scripts/export.py; copy it again, or export the checkpoint again"
        ) from error


def _saved_config(session: Any, path: Path) -> TrainConfig:
    try:
        metadata = session.get_modelmeta().custom_metadata_map
    except UnicodeDecodeError:
        metadata = {}
    return config_of_metadata(metadata, f"checkpoint={path}")


def config_of_metadata(metadata: Mapping[str, Any], where: str) -> TrainConfig:
    """Returns the configuration in the metadata of an exported network.

    Args:
        where: names their file in messages.

    Raises:
        InputError: there is none, or this version cannot read it; the message names the keys and the version that wrote it.
    """
    saved = metadata.get(CONFIG_KEY)
    if not isinstance(saved, str):
        raise InputError(f"{where}: it has no configuration; expected a file written by scripts/export.py")
    try:
        return TrainConfig.model_validate(json.loads(saved))
    except (ValidationError, ValueError, RecursionError) as error:
        problems = "; ".join(described_problems(error)[:3]) if isinstance(error, ValidationError) else "not JSON"
        writer = metadata.get("version", "unknown")
        raise InputError(
            f"{where}: this version cannot read its configuration, which version {writer} wrote: {problems}; "
            "export the checkpoint again with this version, or use that one"
        ) from error
