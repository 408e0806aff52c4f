"""Reduces the precision of an exported network: float16, or int8 with ranges measured on pictures."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ocr.onnx_network import INPUT_NAME, import_extra

_KEPT_IN_FLOAT32 = 2
"""Convolutions before the output that int8 leaves in float32: the head's last layers give the probabilities themselves."""


def to_float16(model: Any) -> Any:
    """Returns the onnx.ModelProto with weights and arithmetic in float16. Input and output keep their types."""
    float16 = import_extra("onnxruntime.transformers.float16", "precision=float16")
    graphs = import_extra("onnxruntime.transformers.onnx_model", "precision=float16")
    converted = graphs.OnnxModel(float16.convert_float_to_float16(model, keep_io_types=True))
    converted.topological_sort()  # the converter appends the casts of the input at the end
    return converted.model


def to_int8(model: Any, inputs: Iterator[npt.NDArray[Any]], folder: Path) -> Any:
    """Returns the onnx.ModelProto with int8 weights and activations (QDQ, static, one scale per output channel).

    Args:
        inputs: batches as the graph takes them; the ranges of the activations are measured on these.
        folder: an existing folder for files in between.
    """
    onnx = import_extra("onnx", "precision=int8")
    quantization = import_extra("onnxruntime.quantization", "precision=int8")
    source, target = folder / "float32.onnx", folder / "int8.onnx"
    onnx.save(model, source)
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)  # onnxruntime advises on the root logger to run a step that has no effect here
    try:
        quantization.quantize_static(
            source,
            target,
            _reader(quantization, inputs),
            quant_format=quantization.QuantFormat.QDQ,
            activation_type=quantization.QuantType.QInt8,
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
            nodes_to_exclude=_last_layers(model),
        )
    finally:
        logger.setLevel(level)
    return onnx.load(target)


def _reader(quantization: Any, inputs: Iterator[npt.NDArray[Any]]) -> Any:
    class Reader(quantization.CalibrationDataReader):
        """Gives the batches to onnxruntime one by one."""

        def get_next(self) -> dict[str, npt.NDArray[Any]] | None:
            batch = next(inputs, None)
            return None if batch is None else {INPUT_NAME: np.ascontiguousarray(batch)}

    return Reader()


def _last_layers(model: Any) -> list[str]:
    """Returns the names of the last convolutions on the way to the output."""
    names = [node.name for node in model.graph.node if node.op_type in ("Conv", "ConvTranspose")]
    return names[-_KEPT_IN_FLOAT32:]
