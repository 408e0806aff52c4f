"""A machine with a GPU where Triton cannot build its launcher, for want of a C compiler or a library: the CPU draws the maps."""

import logging
from collections.abc import Callable
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from triton.backends.nvidia import driver
from triton.runtime.build import compile_module_from_src

from ocr.polygons import PolygonBatch
from ocr.targets import triton_maps
from ocr.targets.config import TargetConfig
from ocr.targets.maps import can_use_triton, make_targets, measured
from ocr.targets.outline import measure_outlines
from ocr.targets.packing import pack_polygons
from ocr.targets.target_maps import TargetMaps

GPU = torch.device("cuda", 0)
POLYGONS = PolygonBatch.from_lists([[np.array([[10, 10], [50, 10], [50, 40], [10, 40]])]])


@pytest.fixture(params=["no compiler", "not there", "fails", "no libcuda", "no ldconfig"])
def build(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path) -> Callable[..., None]:
    """Does what Triton does before it starts a kernel, on a machine where that fails: builds a module, or finds libcuda."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("CC", "LD_LIBRARY_PATH", "TRITON_LIBCUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    if request.param in ("no libcuda", "no ldconfig"):
        missing = FileNotFoundError(2, "No such file or directory", "/sbin/ldconfig")
        answer = {"side_effect": missing} if request.param == "no ldconfig" else {"return_value": b"0 libs found"}
        monkeypatch.setattr(driver.subprocess, "check_output", Mock(**answer))
        return lambda *arguments: driver.libcuda_dirs.__wrapped__()
    if request.param != "no compiler":
        compiler = tmp_path / "cc"
        monkeypatch.setenv("CC", str(compiler))
        if request.param == "fails":
            compiler.write_text("#!/bin/sh\nexit 1\n")
            compiler.chmod(0o755)
    return lambda *arguments: compile_module_from_src("int number;", "number")


@pytest.fixture
def remedy(request: pytest.FixtureRequest) -> str:
    """Returns words of the remedy for what `build` lacks."""
    is_library = request.node.callspec.params["build"] in ("no libcuda", "no ldconfig")
    return "set TRITON_LIBCUDA_PATH" if is_library else "install gcc and python3-dev, or set CC"


@pytest.fixture
def no_cached_answer():
    can_use_triton.cache_clear()
    yield
    can_use_triton.cache_clear()


def test_the_cpu_draws_the_maps_and_the_log_says_why(build, remedy, no_cached_answer, monkeypatch, caplog):
    monkeypatch.setattr(triton_maps, "make_targets_triton", build)
    monkeypatch.setattr(TargetMaps, "to", lambda maps, device: maps)  # this machine has no GPU
    with caplog.at_level(logging.WARNING):
        on_gpu = [make_targets(POLYGONS, (64, 64), TargetConfig(), GPU) for _ in range(2)]
    on_cpu = make_targets(POLYGONS, (64, 64), TargetConfig())
    assert all(torch.equal(maps.thresh_map, on_cpu.thresh_map) for maps in on_gpu)
    (warning,) = caplog.messages
    assert warning.startswith("Triton cannot build the launcher")
    assert remedy in warning


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
