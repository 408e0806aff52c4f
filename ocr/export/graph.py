"""Turns a trained network into a file for other runtimes: ONNX with metadata, or torch.export's .pt2.

    images -> (normalisation, with uint8_input) -> network -> probability map

Batch, height and width are dynamic; height and width are multiples of 32.
"""

import contextlib
import io
import json
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from ocr import __version__
from ocr.checkpoint import CONFIG_KEY
from ocr.config import TrainConfig
from ocr.errors import InputError
from ocr.models.dbnet import DBNet
from ocr.models.inference import InferenceNet, for_inference
from ocr.onnx_network import INPUT_NAME, OUTPUT_NAME, import_extra
from ocr.postprocess.config import RESULT_KEYS

SIDE_STEP = 32
"""Height and width of an input are multiples of this."""
_EXAMPLE_SIZE = (2, 96, 128)
"""Batch, height and width of the images that the network is traced with; all differ, so that none is taken for another."""


class InferenceGraph(nn.Module):
    """The network as it is exported: images in, probability map out.

    Args:
        model: the network.
        config: its configuration, for mean and std.
        uint8_input: take RGB levels, and normalise them inside.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: InferenceNet, config: TrainConfig, uint8_input: bool) -> None:
        super().__init__()
        self.model = model
        self.uint8_input = uint8_input
        self.register_buffer("mean", torch.tensor(config.pipeline.mean)[:, None, None])
        self.register_buffer("std", torch.tensor(config.pipeline.std)[:, None, None])

    def forward(self, images: Tensor) -> Tensor:
        """Returns (B, H / map_stride, W / map_stride) float32.

        Args:
            images: (B, 3, H, W) float32, normalised; with `uint8_input` (B, H, W, 3) uint8 RGB levels.
        """
        if self.uint8_input:
            images = (images.permute(0, 3, 1, 2).float() - self.mean) / self.std
        prob_map: Tensor = self.model(images).prob_map
        return prob_map


def trace(model: DBNet, config: TrainConfig, uint8_input: bool) -> ExportedProgram:
    """Returns the network as a program of torch.export.

    Raises:
        InputError: torch.export cannot trace this backbone with dynamic sizes.
    """
    model.head.float32 = False  # the whole network is float32 here
    graph = InferenceGraph(for_inference(model), config, uint8_input).requires_grad_(False)
    batch, height, width = _EXAMPLE_SIZE
    first = 1 if uint8_input else 2  # place of the height
    shape = (batch, height, width, 3) if uint8_input else (batch, 3, height, width)
    example = torch.zeros(shape, dtype=torch.uint8 if uint8_input else torch.float32)
    sizes = {0: Dim("batch"), first: SIDE_STEP * Dim("rows"), first + 1: SIDE_STEP * Dim("columns")}
    try:
        with _quiet():
            return torch.export.export(graph, (example,), dynamic_shapes={"images": sizes})
    except Exception as error:  # torch.export raises many types
        raise _not_exportable(config, "torch.export", error) from error


def save_torch_export(program: ExportedProgram, config: TrainConfig, path: Path) -> None:
    """Writes a .pt2 file. Its extra file `metadata.json` holds what `metadata` returns."""
    uint8_input = program.example_inputs[0][0].dtype == torch.uint8
    described = json.dumps(metadata(config, uint8_input, "float32"))
    torch.export.save(program, path, extra_files={"metadata.json": described})


def to_onnx(program: ExportedProgram, config: TrainConfig) -> Any:
    """Returns the network as an onnx.ModelProto in float32, with named dimensions and without metadata.

    Raises:
        InputError: the exporter cannot convert this backbone.
    """
    try:
        with _quiet():
            exported = torch.onnx.export(
                program, (), input_names=[INPUT_NAME], output_names=[OUTPUT_NAME], dynamo=True, verbose=False
            )
    except Exception as error:  # the exporter raises types of its own
        raise _not_exportable(config, "torch.onnx", error) from error
    if exported is None:
        raise RuntimeError("torch.onnx.export returned no program")
    model = exported.model_proto
    uint8_input = program.example_inputs[0][0].dtype == torch.uint8
    places = ("batch", "height", "width", "") if uint8_input else ("batch", "", "height", "width")
    _name_dimensions(model.graph.input[0], places)
    _name_dimensions(model.graph.output[0], ("batch", "map_height", "map_width"))
    return model


def describe(model: Any, config: TrainConfig, uint8_input: bool, precision: str) -> None:
    """Writes the metadata into an onnx.ModelProto, in place of any other."""
    onnx = import_extra("onnx", "format=onnx")
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, metadata(config, uint8_input, precision))


def metadata(config: TrainConfig, uint8_input: bool, precision: str) -> dict[str, str]:
    """Returns all that preprocessing and postprocessing need. Values are JSON, or plain text.

    CONFIG_KEY holds the whole configuration, which this project reads. The other keys repeat parts of it for other programs.
    """
    pipeline, post, targets = config.pipeline, config.postprocess, config.targets
    values: dict[str, Any] = {
        "version": __version__,
        "classes": ["text"],
        "precision": precision,
        "input": "uint8 RGB, NHWC, 0 to 255" if uint8_input else "float32 RGB, NCHW, (levels - mean) / std",
        "stride": SIDE_STEP,
        "image_size": pipeline.image_size,
        "mean": pipeline.mean,
        "std": pipeline.std,
        "map_stride": targets.map_stride,
        "shrink_ratio": targets.shrink_ratio,
        **{name: getattr(post, name) for name in RESULT_KEYS},
        CONFIG_KEY: config.model_dump(mode="json"),
    }
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in values.items()}


def _name_dimensions(value: Any, names: tuple[str, ...]) -> None:
    for dimension, name in zip(value.type.tensor_type.shape.dim, names, strict=True):
        if name:
            dimension.dim_param = name


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the exporters' progress and warnings from the terminal."""
    chatty = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in chatty]
    for logger in chatty:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(chatty, levels, strict=True):
            logger.setLevel(level)


def _not_exportable(config: TrainConfig, exporter: str, error: Exception) -> InputError:
    first = str(error).strip().partition(os.linesep)[0]
    return InputError(
        f"model.backbone.name={config.model.backbone.name}: {exporter} cannot export it with dynamic sizes "
        f"({type(error).__name__}: {first}); train another backbone, for example resnet18"
    )
