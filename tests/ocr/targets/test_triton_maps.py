"""The Triton kernel: in the interpreter, compiled for GPUs that need not be there, and on a GPU."""

import json
import os
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ocr.polygons import PolygonBatch
from ocr.targets.agreement import compare_maps, random_polygons
from ocr.targets.config import TargetConfig
from ocr.targets.maps import make_targets, measured
from ocr.targets.numba_maps import make_targets_numba
from ocr.targets.outline import measure_outlines
from ocr.targets.packing import BAND_ROWS, pack_polygons
from ocr.targets.reference import make_targets_reference
from ocr.targets.target_maps import TargetMaps
from tests.ocr.targets.interpreted import InterpretedKernel

SIZE = (96, 144)
BOX = np.array([[10, 10], [40, 10], [40, 25], [10, 25]])
TILE = (BAND_ROWS, 64)
COMPILE = Path(__file__).with_name("compiled_kernel.py")

strides = pytest.mark.parametrize("stride", [1, 2, 4])


def config_of(stride: int) -> TargetConfig:
    return TargetConfig.model_validate({"map_stride": stride})


def assert_equal(maps: TargetMaps, expected: TargetMaps) -> None:
    for field in fields(maps):
        assert torch.equal(getattr(maps, field.name), getattr(expected, field.name)), field.name


@pytest.fixture
def batch() -> PolygonBatch:
    return random_polygons(np.random.default_rng(1), num_images=2, polygons_per_image=8, size=SIZE)


@strides
def test_polygon_of_500_vertices_agrees_with_the_reference(interpreted: InterpretedKernel, stride: int) -> None:
    angle = np.arange(500) * 2 * np.pi / 500
    radius = np.where(np.arange(500) % 2, 40, 30)[:, None]
    star = np.array([72, 48]) + radius * np.column_stack([np.cos(angle), np.sin(angle)])
    polygons_input, config = PolygonBatch.from_lists([[star]]), config_of(stride)
    maps = interpreted(polygons_input, SIZE, config, tile=(128, 128))
    reference = make_targets_reference(polygons_input, SIZE, config)
    agreement = compare_maps(maps, reference, polygons_input, SIZE, config)
    assert agreement.box_pixels >= 70 * 70 / stride**2
    assert agreement.shrink_map_share <= 0.002
    assert agreement.thresh_map_error <= 1e-4


@pytest.mark.parametrize("tile", [(8, 32), (128, 256)])
@pytest.mark.parametrize("stride", [1, 4])
def test_size_of_the_tiles_does_not_change_the_maps(
    interpreted: InterpretedKernel, batch: PolygonBatch, stride: int, tile: tuple[int, int]
) -> None:
    config = config_of(stride)
    assert_equal(interpreted(batch, SIZE, config, tile=tile), interpreted(batch, SIZE, config))


def test_images_of_a_batch_do_not_see_each_other(interpreted: InterpretedKernel, batch: PolygonBatch) -> None:
    both = interpreted(batch, SIZE, TargetConfig())
    for image in (0, 1):
        alone = interpreted(batch.select([image]), SIZE, TargetConfig())
        assert_equal(alone, TargetMaps(*(getattr(both, field.name)[image : image + 1] for field in fields(both))))


def test_size_that_no_tile_divides(interpreted: InterpretedKernel) -> None:
    size, polygons_input = (37, 101), PolygonBatch.from_lists([[BOX], [BOX + 60]])
    maps, expected = (make(polygons_input, size, TargetConfig()) for make in (interpreted, make_targets_numba))
    for field in fields(maps):
        torch.testing.assert_close(getattr(maps, field.name), getattr(expected, field.name), msg=field.name)


def test_polygons_outside_change_nothing(interpreted: InterpretedKernel) -> None:
    outside = [BOX + np.array(shift) for shift in ([-200, 0], [400, 0], [0, -200], [0, 400], [1e6, 1e6])]
    maps = interpreted(PolygonBatch.from_lists([outside, [*outside, BOX]]), SIZE, TargetConfig())
    assert_equal(maps, interpreted(PolygonBatch.from_lists([[], [BOX]]), SIZE, TargetConfig()))


def test_many_polygons_in_one_image(interpreted: InterpretedKernel) -> None:
    rng = np.random.default_rng(5)
    corners = rng.uniform(0, SIZE[::-1], (120, 1, 2))
    polygons = list(corners + np.array([[0, 0], [12, 0], [12, 9], [0, 9]]))
    polygons_input = PolygonBatch.from_lists([polygons], [[i % 3 == 0 for i in range(120)]])
    maps, reference = (make(polygons_input, SIZE, TargetConfig()) for make in (interpreted, make_targets_reference))
    agreement = compare_maps(maps, reference, polygons_input, SIZE, TargetConfig())
    assert agreement.shrink_map_share <= 0.002
    assert agreement.thresh_map_error <= 1e-4


def test_pytorch_only_allocates_however_many_polygons(interpreted: InterpretedKernel, batch: PolygonBatch) -> None:
    few, many = (
        interpreted.operations(polygons_input, SIZE, TargetConfig()) for polygons_input in (batch.select([0]), batch)
    )
    ours = {"empty", "unbind"}
    assert set(many) <= ours | {"detach", "new_empty", "set_", "copy_"}, "the latter are the interpreter's"
    assert few == many


@pytest.mark.parametrize(("num_images", "tile"), [(1, TILE), (3, TILE), (2, (32, 32))])
def test_polygons_packed_ahead_give_the_same_maps(
    interpreted: InterpretedKernel, num_images: int, tile: tuple[int, int]
) -> None:
    rng, size = np.random.default_rng(num_images), (48, 96)
    polygons_input = random_polygons(rng, num_images, polygons_per_image=3, size=size)
    outlines = measure_outlines(polygons_input, size, TargetConfig())
    packed = replace(outlines, packed=pack_polygons(polygons_input, outlines, num_rows=48))
    maps = interpreted(polygons_input, size, TargetConfig(), tile=tile, outlines=packed)
    assert_equal(maps, interpreted(polygons_input, size, TargetConfig(), tile=tile))


@pytest.fixture(scope="module")
def compiled() -> dict[str, dict[str, int]]:
    """Returns what the kernel takes on each architecture: registers, spills, shared memory. A process of its own compiles it."""
    pytest.importorskip("triton", reason="Triton is not installed: PyTorch is a build without CUDA")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    done = subprocess.run([sys.executable, str(COMPILE)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("architecture", ["80", "90", "100"])
def test_kernel_compiles_without_spills(compiled: dict[str, dict[str, int]], architecture: str) -> None:
    needs = compiled[architecture]
    # 128 registers leave room for 16 warps on a multiprocessor.
    assert 0 < needs["registers"] <= 128
    assert needs["spilled_bytes"] == 0
    assert needs["shared_bytes"] <= 4096


@pytest.mark.gpu
@strides
def test_gpu_maps_equal_cpu_maps_without_a_sync(batch: PolygonBatch, stride: int) -> None:
    config = config_of(stride)
    make_targets(batch, SIZE, config, "cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        maps = make_targets(batch, SIZE, config, "cuda")
        maps.blanked(torch.tensor([False, True]))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    expected = make_targets_numba(batch, SIZE, config)
    for field in fields(maps):
        difference = (getattr(maps, field.name).cpu() - getattr(expected, field.name)).abs()
        assert (difference > 1e-4).float().mean() < 1e-3, field.name


@pytest.mark.gpu
def test_gpu_maps_are_bit_equal_in_every_run_and_from_polygons_packed_ahead(batch: PolygonBatch) -> None:
    one, other = (make_targets(batch, SIZE, TargetConfig(), "cuda") for _ in range(2))
    assert_equal(one, other)
    ahead = measured(batch, SIZE, TargetConfig(), "cuda")
    assert ahead.packed is not None
    assert_equal(one, make_targets(batch, SIZE, TargetConfig(), "cuda", ahead))


@pytest.mark.gpu
@pytest.mark.parametrize("num_images", [1, 16])
def test_gpu_launches_one_kernel_and_one_copy(batch: PolygonBatch, num_images: int) -> None:
    polygons_input = batch.select(np.arange(num_images) % 2)
    make_targets(polygons_input, SIZE, TargetConfig(), "cuda")
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        make_targets(polygons_input, SIZE, TargetConfig(), "cuda")
        torch.cuda.synchronize()
    on_device = [event.name for event in profile.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    assert sum("draw_tile" in name for name in on_device) == 1
    assert sum("HtoD" in name for name in on_device) == 1
    assert len(on_device) == 2
