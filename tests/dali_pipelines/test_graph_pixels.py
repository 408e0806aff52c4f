"""Compares the GPU's graphs, run by DALI's CPU operators, with an oracle, and checks that the comparison notices mistakes."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nvidia.dali import fn, types
from nvidia.dali.pipeline import do_not_convert
from PIL import Image

from dali_pipelines.eval import eval_pipeline
from dali_pipelines.train import train_pipeline
from tests.dali_pipelines.graph_runs import SIZE, disagreement, perspective_pipeline, run
from tests.dali_pipelines.odd_pictures import draw_odd_pictures

# Mutations leave inputs of the graph unused.
pytestmark = pytest.mark.filterwarnings("ignore:The external source node")

STEPS = {
    train_pipeline: ["decoders.image", "resize", "warp_affine", "coord_transform", "crop_mirror_normalize"],
    perspective_pipeline: [
        "decoders.image",
        "resize",
        "experimental.warp_perspective",
        "coord_transform",
        "crop_mirror_normalize",
    ],
    eval_pipeline: ["decoders.image", "resize", "crop_mirror_normalize"],
}
"""Operators of each graph after the file has been read."""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return draw_odd_pictures(tmp_path_factory.mktemp("odd_pictures"))


@pytest.mark.parametrize("dtype", ["float16", "float32", "uint8"])
@pytest.mark.parametrize("layout", ["CHW", "HWC"])
@pytest.mark.parametrize("graph", STEPS)
def test_a_gpus_graph_agrees_with_the_oracle(graph, layout, dtype, pictures):
    assert disagreement(graph, pictures, layout, dtype) is None


@pytest.mark.parametrize("graph", STEPS)
def test_a_gpus_graph_decodes_no_file_of_another_size_than_audited(graph, pictures):
    stored_sizes = [Image.open(picture).size[::-1] for picture in pictures]
    _, expected = run(graph, pictures)
    _, found = run(graph, pictures, stored_sizes=stored_sizes)
    np.testing.assert_array_equal(found, expected)
    for axis in (0, 1):
        others = [list(size) for size in stored_sizes]
        others[1][axis] += 1
        with pytest.raises(RuntimeError, match="nvImageCodec"):
            run(graph, pictures, stored_sizes=others)


class Without:
    """Leaves an argument out, so that DALI takes its default."""


def transposed(matrix):
    """Returns a mutation's value: the (3, 3) matrix of a node transposed."""
    return fn.transpose(matrix, perm=[1, 0])


def swapped(pair):
    """Returns a mutation's value: both numbers of a node exchanged."""
    return fn.stack(pair[1], pair[0])


def rotated_back(matrix):
    """Returns a mutation's value: the (2, 3) matrix of a node with the opposite rotation."""
    return matrix * fn.stack(types.Constant([1.0, -1.0, 1.0]), types.Constant([-1.0, 1.0, 1.0]))


def half_a_pixel_later(matrix):
    """Returns a mutation's value: the (2, 3) matrix of a node, moved as if pixel centres lay at whole numbers."""
    return matrix + types.Constant([0.0, 0.0, 0.5])


DECODE = [
    {"output_type": types.BGR},
    {"output_type": types.YCbCr},
    {"output_type": Without},  # RGB is DALI's default too
    {"adjust_orientation": False},
]
RESIZE = [
    {"antialias": False},
    {"interp_type": types.INTERP_NN},
    {"interp_type": types.INTERP_CUBIC},
    {"interp_type": types.INTERP_TRIANGULAR, "antialias": Without},
    {"size": swapped},
]
REGION = [
    {"roi_start": Without, "roi_end": Without},
    {"roi_start": swapped},
    {"roi_end": swapped},
    {"roi_start": swapped, "roi_end": swapped},
]
WARP = [
    {"inverse_map": True},
    {"inverse_map": Without},
    {"matrix": rotated_back},
    {"matrix": half_a_pixel_later},
    {"fill_value": Without},
    {"fill_value": 255},
    {"interp_type": types.INTERP_NN},
    {"size": (SIZE, SIZE - 1)},
]
WARP_IN_PERSPECTIVE = [
    {"inverse_map": True},
    {"inverse_map": Without},
    {"matrix": transposed},
    {"pixel_origin": "center"},
    {"fill_value": 255},
    {"interp_type": types.INTERP_NN},
    {"interp_type": types.INTERP_CUBIC},
    {"size": (SIZE, SIZE - 1)},
]
COLOUR = [
    {"M": transposed},
    {"M": Without},
    {"T": Without},
    {"dtype": Without},
]
FINISH = [
    {"mean": (80.0, 100.0, 120.0)},
    {"mean": Without},
    {"std": (70.0, 60.0, 50.0)},
    {"std": Without},
    {"output_layout": "HWC"},
    {"dtype": types.FLOAT16},
    {"crop": (SIZE, SIZE - 1)},
]
PADDING = [
    {"fill_values": 0},
    {"fill_values": Without},
    {"crop_pos_x": 1.0},
    {"crop_pos_y": 0.5},
    {"out_of_bounds_policy": "trim_to_shape"},
]
NARROW = {"narrow.png", "flat.png", "one_line.png"}
HARMLESS = [{"output_type": Without}, {"interp_type": types.INTERP_TRIANGULAR, "antialias": Without}]
"""Changes that describe the same operator in other words."""

MUTATIONS = {
    train_pipeline: {
        "decoders.image": DECODE,
        "resize": RESIZE + REGION,
        "warp_affine": WARP,
        "coord_transform": COLOUR,
        "crop_mirror_normalize": FINISH,
    },
    # Its other steps are those of the training graph.
    perspective_pipeline: {"experimental.warp_perspective": WARP_IN_PERSPECTIVE},
    eval_pipeline: {"decoders.image": DECODE, "resize": RESIZE, "crop_mirror_normalize": FINISH + PADDING},
}


def mutate(monkeypatch: pytest.MonkeyPatch, operator: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Has every graph built from now on call the operator with changed keyword arguments."""
    *folder, name = operator.split(".")
    module = importlib.import_module(".".join(["nvidia.dali.fn", *folder]))
    original = getattr(module, name)

    def mutated(*inputs, **arguments):
        return original(*inputs, **change(arguments))

    monkeypatch.setattr(module, name, do_not_convert(mutated))


def changed(arguments: dict[str, Any], mutation: dict[str, Any]) -> dict[str, Any]:
    """Returns the keyword arguments with the mutation's values in place of the right ones."""
    result = dict(arguments)
    for name, wrong in mutation.items():
        right = result.pop(name)
        if wrong is not Without:
            result[name] = wrong(right) if callable(wrong) else wrong
    return result


def named(mutation: dict[str, Any]) -> str:
    return " ".join(f"{name}={getattr(wrong, '__name__', wrong)}" for name, wrong in mutation.items())


@pytest.mark.parametrize(
    ("graph", "operator", "mutation"),
    [
        pytest.param(graph, operator, mutation, id=f"{graph.__name__}-{operator}-{named(mutation)}")
        for graph, operators in MUTATIONS.items()
        for operator, mutations in operators.items()
        for mutation in mutations
    ],
)
def test_the_oracle_notices_a_wrong_argument(graph, operator, mutation, pictures, monkeypatch):
    mutate(monkeypatch, operator, lambda arguments: changed(arguments, mutation))
    # With x and y exchanged, a region of a narrow picture lies outside the picture, and DALI reads foreign memory.
    difference = disagreement(graph, [picture for picture in pictures if picture.name not in NARROW])
    assert (difference is None) == (mutation in HARMLESS), difference


@pytest.mark.parametrize("graph", STEPS)
def test_each_argument_of_a_step_has_a_mutation(graph, pictures, monkeypatch):
    given: dict[str, set[str]] = {}

    def note(operator: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
        return lambda arguments: given.setdefault(operator, set()).update(arguments) or arguments

    for operator in STEPS[graph]:
        mutate(monkeypatch, operator, note(operator))
    assert disagreement(graph, pictures) is None
    tried = {
        (operator, name)
        for operators in MUTATIONS.values()
        for operator, mutations in operators.items()
        for mutation in mutations
        for name in mutation
    }
    untried = {(operator, name) for operator, names in given.items() for name in names} - tried
    # DALI's CPU decoder ignores it; test_gpu_graphs.py checks its value.
    assert untried == {("decoders.image", "jpeg_fancy_upsampling")}
