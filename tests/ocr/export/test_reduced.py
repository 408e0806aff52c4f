"""int8 of small graphs made by hand: which convolutions stay in float32."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ocr.export.reduced import to_int8

onnx = pytest.importorskip("onnx", reason="needs the extra onnx")

WEIGHTS = ([[1.0, 0.5], [-0.5, 1.0]], [[1.0, 0.5], [0.5, 1.0]], [[1.0, 0.0]], [[1.0]])
"""Kernels of four 1x1 convolutions, by output and input channel; the last two always stay in float32."""


def chain(weights: Any) -> Any:
    """Returns a graph of convolutions and a sigmoid. Each kernel is (outputs, inputs)."""
    nodes, tensors, value = [], [], "images"
    for number, weight in enumerate(weights):
        kernel = np.array(weight, np.float32)[:, :, None, None]
        tensors.append(onnx.numpy_helper.from_array(kernel, f"weight_{number}"))
        nodes.append(onnx.helper.make_node("Conv", [value, f"weight_{number}"], [f"conv_{number}"], f"conv_{number}"))
        value = f"conv_{number}"
    nodes.append(onnx.helper.make_node("Sigmoid", [value], ["prob_map"], "sigmoid"))
    ends = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", channels, "height", "width"])
        for name, channels in (("images", len(weights[0][0])), ("prob_map", len(weights[-1])))
    ]
    graph = onnx.helper.make_graph(nodes, "chain", ends[:1], ends[1:], tensors)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)])


def in_int8(model: Any) -> list[str]:
    """Names of the convolutions whose kernel is stored in int8."""
    stored = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    kernels = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    return [
        node.name
        for node in model.graph.node
        if node.op_type == "Conv" and stored.get(kernels.get(node.input[1], "")) == onnx.TensorProto.INT8
    ]


def quantized(weights: Any, folder: Path) -> Any:
    images = np.random.default_rng(0).uniform(-1, 1, (1, 2, 16, 16)).astype(np.float32)
    return to_int8(chain(weights), iter([images]), [images], folder)


def test_all_but_the_last_two_convolutions_are_in_int8(tmp_path):
    assert in_int8(quantized(WEIGHTS, tmp_path)) == ["conv_0", "conv_1"]


def test_what_lies_behind_the_last_convolutions_is_not_rounded(tmp_path):
    nodes = quantized(WEIGHTS, tmp_path).graph.node
    (sigmoid,) = (node for node in nodes if node.op_type == "Sigmoid")
    assert sigmoid.input[0] == "conv_3"
    assert sigmoid.output[0] == "prob_map"
    assert [node.op_type for node in nodes if "conv_3" in node.input] == ["Sigmoid"]


def test_a_convolution_that_changes_the_maps_stays_in_float32(tmp_path):
    first, _, *last = WEIGHTS
    one_large_channel = [[1.0, 0.5], [5000.0, 5000.0]]  # 255 steps over its range leave nothing of the other channel
    model = quantized((first, one_large_channel, *last), tmp_path)
    assert in_int8(model) == ["conv_0"]
    onnx.checker.check_model(model)


def test_activations_are_uint8_which_cpus_multiply_fastest(tmp_path):
    model = quantized(WEIGHTS, tmp_path)
    stored = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    zeros = {stored[node.input[2]] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    assert zeros == {onnx.TensorProto.UINT8}
