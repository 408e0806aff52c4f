"""Builds the graphs of a GPU and reads the serialised operators: arguments, devices, outputs. None of them runs here.

test_graph_pixels.py runs the same graphs with DALI's CPU operators. Here each GPU operator must have the same arguments as its
CPU counterpart, so what holds for the pixels there holds for the graph of a GPU.
"""

from collections.abc import Callable
from typing import Any

import pytest
from nvidia.dali import types
from nvidia.dali.pipeline import Pipeline

from dali_pipelines import steps
from dali_pipelines.config import PipelineConfig
from dali_pipelines.decode import decode_pipeline
from dali_pipelines.eval import eval_pipeline
from dali_pipelines.train import train_pipeline
from tests.dali_pipelines.graph_runs import perspective_pipeline
from tests.dali_pipelines.serialised import Graph, Operator, read_graph

DTYPES = {"float16": types.FLOAT16, "float32": types.FLOAT, "uint8": types.UINT8}
STEPS = {
    train_pipeline: ["Resize", "WarpAffine", "CoordTransform", "CropMirrorNormalize"],
    perspective_pipeline: ["Resize", "experimental__WarpPerspective", "CoordTransform", "CropMirrorNormalize"],
    eval_pipeline: ["Resize", "CropMirrorNormalize"],
}
CONDITIONS = {"_conditional__Split", "_conditional__Merge", "_conditional__Not_"}
SIZE_CHECK = {"PeekImageShape", "Constant", "_ArithmeticGenericOp", "_TensorSubscript", "_SubscriptDimCheck"}
"""Operators that compare the size in a file's header with the largest allowed."""
ONLY_ON_A_GPU = {
    "hw_decoder_load": pytest.approx(0.65),
    "preallocate_height_hint": 0,
    "preallocate_width_hint": 0,
}


def no_batch() -> Any:
    raise AssertionError("a graph that is only built draws no batch")


def feed(images: str) -> steps.Feed:
    """Returns a feed that no batch is drawn from: images from files, or kept images on one device, handed out or not."""
    if images == "from files":
        return steps.Feed(no_batch)
    return steps.Feed(
        no_batch,
        no_batch,
        no_batch,
        pixels_on_gpu="on the gpu" in images,
        hands_out_images="handed out" in images,
    )


IMAGES = ["from files", "kept on the cpu", "kept on the gpu", "kept on the gpu, handed out"]
ALL = pytest.mark.parametrize(
    ("graph", "images", "layout"),
    [
        pytest.param(graph, images, layout, id=f"{graph.__name__}-{images}-{layout}")
        for graph in STEPS
        for images in IMAGES
        for layout in ("CHW", "HWC")
        if graph is not perspective_pipeline or images == "kept on the gpu"
    ],
)
"""The graphs for each place that images come from, in both layouts. That in perspective differs in one step: one place will do."""


def built(
    graph: Callable[..., Pipeline],
    images: str = "from files",
    layout: str = "CHW",
    *,
    on_gpu: bool = True,
    dtype: str = "float16",
) -> Graph:
    pipeline = graph(
        feed=feed(images),
        config=PipelineConfig(image_size=64, output_layout=layout),
        on_gpu=on_gpu,
        dtype=DTYPES[dtype],
        batch_size=3,
        num_threads=1,
        device_id=None,
    )
    return read_graph(pipeline.serialize())


def fixed_arguments(operator: Operator) -> dict[str, Any]:
    """Returns the arguments with a fixed value, without the device."""
    return {name: value for name, value in operator.arguments.items() if name != "device"}


def fed_arguments(operator: Operator) -> set[str]:
    return {node.argument for node in operator.inputs if node.argument}


@ALL
def test_everything_after_the_decoder_runs_on_the_gpu(graph, images, layout):
    operators = built(graph, images, layout).operators
    (decoder,) = (each for each in operators if each.name == "decoders__Image")
    assert decoder.device == "mixed"
    made_on_gpu = {node.name for each in operators for node in each.outputs if node.device == "gpu"}
    assert decoder.outputs[0].name in made_on_gpu
    for each in operators:
        image_inputs = [node for node in each.inputs if not node.argument]
        if any(node.name in made_on_gpu for node in image_inputs):
            assert each.device == "gpu", each.name
            assert {node.device for node in image_inputs + list(each.outputs)} == {"gpu"}, each.name
    assert [each.name for each in operators if each.name in STEPS[graph]] == STEPS[graph]
    # Only conditions, numbers and encoded bytes remain on the CPU.
    on_cpu = {each.name for each in operators if each.device == "cpu"}
    assert on_cpu <= {"ExternalSource", "io__file__Read"} | CONDITIONS | SIZE_CHECK


@ALL
def test_each_step_takes_the_image_of_the_step_before(graph, images, layout):
    found = built(graph, images, layout)
    decoded = found.named("decoders__Image").outputs[0].name
    if images != "from files":
        decoded = next(
            each.outputs[0].name
            for each in found.operators
            if each.name == "_conditional__Merge" and each.outputs[0].device == "gpu"
        )
    image = decoded
    for name in STEPS[graph]:
        step = found.named(name)
        assert [node.name for node in step.inputs if not node.argument] == [image]
        image = step.outputs[0].name
    outputs = [image, decoded] if "handed out" in images else [image]
    assert [(node.name, node.device) for node in found.outputs] == [(name, "gpu") for name in outputs]


@ALL
def test_pixels_come_from_the_device_that_keeps_them(graph, images, layout):
    sources = [each for each in built(graph, images, layout).operators if each.name == "ExternalSource"]
    pixels = {(each.device, each.arguments["no_copy"]) for each in sources if each.arguments.get("layout") == "HWC"}
    # DALI copies separate images on a GPU anyway, and would share a batch of one.
    assert pixels == {"from files": set(), "kept on the cpu": {("cpu", True)}}.get(images, {("gpu", False)})
    assert {each.device for each in sources if "layout" not in each.arguments} == {"cpu"}


@pytest.mark.parametrize("dtype", ["float16", "float32", "uint8"])
@ALL
def test_arguments_are_those_of_the_graph_that_is_tested_by_its_pixels(graph, images, layout, dtype):
    on_gpu = built(graph, images, layout, dtype=dtype)
    on_cpu = built(graph, "from files", layout, dtype=dtype, on_gpu=False)
    for name in ["decoders__Image", *STEPS[graph]]:
        found, tested = on_gpu.named(name), on_cpu.named(name)
        expected = fixed_arguments(tested) | (ONLY_ON_A_GPU if name == "decoders__Image" else {})
        assert fixed_arguments(found) == expected, name
        assert fed_arguments(found) == fed_arguments(tested), name


def test_the_warp_in_perspective_has_the_arguments_of_the_affine_one():
    affine, perspective = (
        built(train_pipeline).named("WarpAffine"),
        built(perspective_pipeline).named(STEPS[perspective_pipeline][1]),
    )
    assert fixed_arguments(perspective) == fixed_arguments(affine) | {"pixel_origin": "corner", "fill_value": [0.0]}
    assert fed_arguments(perspective) == fed_arguments(affine) == {"matrix"}
    assert [node.device for node in perspective.inputs] == [node.device for node in affine.inputs]


def test_every_argument_of_the_training_graph():
    found = built(train_pipeline)
    assert {name: (fixed_arguments(found.named(name)), fed_arguments(found.named(name))) for name in STEPS[train_pipeline]} == {
        "Resize": ({"interp_type": types.INTERP_LINEAR, "antialias": True}, {"size", "roi_start", "roi_end"}),
        "WarpAffine": (
            {"size": [64, 64], "inverse_map": False, "interp_type": types.INTERP_LINEAR, "fill_value": 0},
            {"matrix"},
        ),
        "CoordTransform": ({"dtype": types.UINT8}, {"M", "T"}),
        "CropMirrorNormalize": (
            {
                "crop": [64, 64],
                "crop_pos_x": 0,
                "crop_pos_y": 0,
                "out_of_bounds_policy": "pad",
                "fill_values": [pytest.approx(value) for value in PipelineConfig().black],
                "mean": [pytest.approx(value) for value in PipelineConfig().mean],
                "std": [pytest.approx(value) for value in PipelineConfig().std],
                "dtype": types.FLOAT16,
                "output_layout": "CHW",
            },
            set(),
        ),
    }  # fmt: skip


@pytest.mark.parametrize("fancy", [True, False])
def test_every_argument_of_the_decoder(fancy):
    config = PipelineConfig(image_size=64, jpeg_fancy_upsampling=fancy, hw_decoder_load=0.5, preallocate_decoder=True)
    pipeline = eval_pipeline(
        feed=feed("from files"),
        config=config,
        on_gpu=True,
        dtype=types.FLOAT16,
        largest_stored=(1754, 1240),
        batch_size=3,
        num_threads=1,
        device_id=None,
    )
    assert read_graph(pipeline.serialize()).named("decoders__Image").arguments == {
        "device": "mixed",
        "output_type": types.RGB,
        "adjust_orientation": True,
        "jpeg_fancy_upsampling": fancy,
        "hw_decoder_load": 0.5,
        "preallocate_height_hint": 1754,
        "preallocate_width_hint": 1240,
    }


@pytest.mark.parametrize("is_path", [True, False])
def test_the_decoding_graph_decodes_on_the_gpu(is_path):
    pipeline = decode_pipeline(
        next_batch=no_batch,
        config=PipelineConfig(),
        on_gpu=True,
        is_path=is_path,
        batch_size=1,
        num_threads=1,
        device_id=None,
    )
    found = read_graph(pipeline.serialize())
    names = ["ExternalSource", *(["io__file__Read"] if is_path else []), "decoders__Image"]
    assert [each.name for each in found.operators if each.name not in CONDITIONS | SIZE_CHECK] == names
    assert [node.device for node in found.outputs] == ["gpu"]
