"""Reduces the precision of an exported network: float16, or int8 with ranges measured on pictures."""

import logging
from collections.abc import Collection, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ocr.onnx_network import INPUT_NAME, import_extra

LARGEST_MAP_CHANGE = 0.03
"""Accepted change of the probability maps by int8, as a share of their sum."""
_KEPT_IN_FLOAT32 = 2
"""Convolutions before the output that int8 leaves in float32, with all behind them: they give the probabilities themselves."""

log = logging.getLogger(__name__)


def to_float16(model: Any) -> Any:
    """Returns the onnx.ModelProto with weights and arithmetic in float16. Input and output keep their types."""
    float16 = import_extra("onnxruntime.transformers.float16", "precision=float16")
    graphs = import_extra("onnxruntime.transformers.onnx_model", "precision=float16")
    converted = graphs.OnnxModel(float16.convert_float_to_float16(model, keep_io_types=True))
    converted.topological_sort()  # the converter appends the casts of the input at the end
    return converted.model


def to_int8(model: Any, inputs: Iterator[npt.NDArray[Any]], probes: Sequence[npt.NDArray[Any]], folder: Path) -> Any:
    """Returns the onnx.ModelProto with int8 weights, one scale per output channel, and uint8 activations (QDQ, static).

    The last layers stay in float32. If the maps of the probes change by more than LARGEST_MAP_CHANGE, so do those convolutions
    that change them most when they alone are in int8.

    Args:
        inputs: batches as the graph takes them; the ranges of the activations are measured on these.
        probes: some batches, to compare the maps of.
        folder: an existing folder for files in between.
    """
    quantizer = _Quantizer(model, inputs, probes, folder)
    convolutions = quantizer.convolutions
    others = convolutions[:-_KEPT_IN_FLOAT32]
    quantized = quantizer.quantized(others)
    change = quantizer.map_change(quantized)
    if change > LARGEST_MAP_CHANGE:
        log.info("int8 changes the maps by %.1f %%; measuring each of %d convolutions", 100 * change, len(others))
        others.sort(key=lambda name: quantizer.map_change(quantizer.alone(name)))
    number = 1
    while change > LARGEST_MAP_CHANGE and others:
        del others[-number:]
        quantized = quantizer.quantized(others)
        change, number = quantizer.map_change(quantized), 2 * number
    log.info(
        "int8: %d of %d convolutions stay in float32; the maps of %d pictures change by %.1f %%",
        len(convolutions) - len(others),
        len(convolutions),
        sum(len(probe) for probe in probes),
        100 * change,
    )
    return quantized


class _Quantizer:
    """Puts chosen convolutions of a network into int8, and compares its maps with those of float32.

    Args:
        model: the onnx.ModelProto in float32.
        inputs, probes, folder: as in `to_int8`.
    """

    def __init__(
        self, model: Any, inputs: Iterator[npt.NDArray[Any]], probes: Sequence[npt.NDArray[Any]], folder: Path
    ) -> None:
        self._onnx = import_extra("onnx", "precision=int8")
        self._quantization = import_extra("onnxruntime.quantization", "precision=int8")
        registry = import_extra("onnxruntime.quantization.registry", "precision=int8")
        self._operators = sorted({*registry.QLinearOpsRegistry, *registry.QDQRegistry})
        self._model = self._onnx.shape_inference.infer_shapes(model)
        self._probes = probes
        self._ranges = self._measured_ranges(inputs, folder)

    @cached_property
    def convolutions(self) -> list[str]:
        """Names of the convolutions, from the input to the output."""
        return [node.name for node in self._model.graph.node if node.op_type in ("Conv", "ConvTranspose")]

    def quantized(self, convolutions: Collection[str]) -> Any:
        """Returns the network with these convolutions, and what lies between them, in int8."""
        chosen = set(convolutions)
        left_out = [name for name in self.convolutions if name not in chosen]
        return self._quantize(excluded=[*self._with_activations(left_out), *self._last_nodes])

    def alone(self, convolution: str) -> Any:
        """Returns the network with one convolution in int8."""
        return self._quantize(included=self._with_activations([convolution]))

    def map_change(self, quantized: Any) -> float:
        """Returns the sum of the maps' absolute differences from float32, as a share of the sum of the maps in float32."""
        maps = self._maps(quantized)
        changed = sum(float(np.abs(new - old).sum()) for new, old in zip(maps, self._float_maps, strict=True))
        return changed / max(sum(float(old.sum()) for old in self._float_maps), 1e-6)

    @cached_property
    def _last_nodes(self) -> list[str]:
        """Names of the nodes from the last layers on: logits rounded to 256 levels would be steps in the probabilities."""
        names = [node.name for node in self._model.graph.node]
        return names[names.index(self.convolutions[-_KEPT_IN_FLOAT32]) :]

    @cached_property
    def _float_maps(self) -> list[npt.NDArray[np.float32]]:
        return self._maps(self._model)

    def _maps(self, model: Any) -> list[npt.NDArray[np.float32]]:
        runtime = import_extra("onnxruntime", "precision=int8")
        options = runtime.SessionOptions()
        options.log_severity_level = 3  # errors
        session = runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return [session.run(None, {INPUT_NAME: np.ascontiguousarray(probe)})[0] for probe in self._probes]

    def _measured_ranges(self, inputs: Iterator[npt.NDArray[Any]], folder: Path) -> Any:
        """Returns the smallest and largest value of each tensor over the inputs."""
        source = folder / "float32.onnx"
        self._onnx.save(self._model, source)
        calibrator = self._quantization.create_calibrator(
            source, self._operators, augmented_model_path=str(folder / "calibrated.onnx")
        )
        calibrator.collect_data(_reader(self._quantization, inputs))
        return calibrator.compute_data()

    def _quantize(self, included: Sequence[str] = (), excluded: Sequence[str] = ()) -> Any:
        types = self._quantization.QuantType
        quantizer = self._quantization.QDQQuantizer(
            _copy(self._model),
            per_channel=True,
            reduce_range=False,
            weight_qType=types.QInt8,
            activation_qType=types.QUInt8,  # CPUs multiply uint8 by int8 in one instruction; int8 by int8 is no faster than float32
            tensors_range=self._ranges,
            nodes_to_quantize=included,
            nodes_to_exclude=excluded,
            op_types_to_quantize=self._operators,
            extra_options={},
        )
        quantizer.quantize_model()
        quantizer.model.topological_sort()  # it appends its nodes at the end
        return quantizer.model.model

    def _with_activations(self, names: Sequence[str]) -> list[str]:
        """Returns the names of these nodes and of the activations behind them, which one step of int8 holds together."""
        chosen = set(names)
        outputs = {output for node in self._model.graph.node if node.name in chosen for output in node.output}
        behind = [
            node.name
            for node in self._model.graph.node
            if node.op_type in ("Clip", "Relu") and outputs.intersection(node.input)
        ]
        return [*names, *behind]


def _copy(model: Any) -> Any:
    copied = type(model)()
    copied.CopyFrom(model)
    return copied


def _reader(quantization: Any, inputs: Iterator[npt.NDArray[Any]]) -> Any:
    class Reader(quantization.CalibrationDataReader):
        """Gives the batches to onnxruntime one by one."""

        def get_next(self) -> dict[str, npt.NDArray[Any]] | None:
            batch = next(inputs, None)
            return None if batch is None else {INPUT_NAME: np.ascontiguousarray(batch)}

    return Reader()
