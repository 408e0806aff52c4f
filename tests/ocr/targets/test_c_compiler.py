"""A machine with a GPU and without a C compiler, which Triton needs to start a kernel: the CPU draws the maps."""

import logging
from collections.abc import Callable

import numpy as np
import pytest
import torch
from triton.runtime.build import compile_module_from_src

from ocr.polygons import PolygonBatch
from ocr.targets import triton_maps
from ocr.targets.config import TargetConfig
from ocr.targets.maps import can_use_triton, is_compiler_missing, make_targets, measured
from ocr.targets.outline import measure_outlines
from ocr.targets.packing import pack_polygons
from ocr.targets.target_maps import TargetMaps

GPU = torch.device("cuda", 0)
POLYGONS = PolygonBatch.from_lists([[np.array([[10, 10], [50, 10], [50, 40], [10, 40]])]])


@pytest.fixture(params=["none", "not there", "fails"])
def build(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path) -> Callable[..., None]:
    """Builds a module as Triton does before it starts a kernel, on a machine whose C compiler is not usable."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    if request.param != "none":
        compiler = tmp_path / "cc"
        monkeypatch.setenv("CC", str(compiler))
        if request.param == "fails":
            compiler.write_text("#!/bin/sh\nexit 1\n")
            compiler.chmod(0o755)
    return lambda *arguments: compile_module_from_src("int number;", "number")


@pytest.fixture
def no_cached_answer():
    can_use_triton.cache_clear()
    yield
    can_use_triton.cache_clear()


def test_errors_of_a_missing_compiler_are_recognised(build):
    with pytest.raises(Exception) as raised:  # noqa: PT011  # three types of errors
        build()
    assert is_compiler_missing(raised.value)


def test_the_cpu_draws_the_maps_and_the_log_says_why(build, no_cached_answer, monkeypatch, caplog):
    monkeypatch.setattr(triton_maps, "make_targets_triton", build)
    monkeypatch.setattr(TargetMaps, "to", lambda maps, device: maps)  # this machine has no GPU
    with caplog.at_level(logging.WARNING):
        on_gpu = [make_targets(POLYGONS, (64, 64), TargetConfig(), GPU) for _ in range(2)]
    on_cpu = make_targets(POLYGONS, (64, 64), TargetConfig())
    assert all(torch.equal(maps.thresh_map, on_cpu.thresh_map) for maps in on_gpu)
    (warning,) = caplog.messages
    assert "needs a C compiler" in warning
    assert "install gcc, or set CC" in warning


def test_polygons_are_packed_ahead_only_if_the_kernel_draws_them(build, no_cached_answer, monkeypatch):
    size, config = (64, 192), TargetConfig(map_stride=2)
    monkeypatch.setattr(triton_maps, "make_targets_triton", lambda *arguments: None)  # this machine has no GPU
    outlines = measure_outlines(POLYGONS, size, config)
    assert np.array_equal(measured(POLYGONS, size, config, GPU).packed, pack_polygons(POLYGONS, outlines, num_rows=32))
    assert measured(POLYGONS, size, config, "cpu").packed is None
    can_use_triton.cache_clear()
    monkeypatch.setattr(triton_maps, "make_targets_triton", build)
    assert measured(POLYGONS, size, config, GPU).packed is None


def test_other_errors_are_raised(no_cached_answer, monkeypatch):
    def fail(*arguments):
        raise RuntimeError("CUDA error: an illegal memory access")

    monkeypatch.setattr(triton_maps, "make_targets_triton", fail)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        make_targets(POLYGONS, (64, 64), TargetConfig(), GPU)
