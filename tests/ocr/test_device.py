import logging

import pytest
import torch

from dali_pipelines.config import PipelineConfig
from ocr import device as device_module
from ocr.device import (
    cpu_is_faster_in_bfloat16,
    fitting_images,
    resolve_device,
    resolve_loading,
    resolve_pipeline,
    resolve_precision,
)
from ocr.errors import InputError
from ocr.loaders.config import DataLoaderConfig

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("vendor", "flags", "is_faster"),
    [
        ("GenuineIntel", "avx512f avx512_bf16 amx_bf16 amx_tile", True),
        ("GenuineIntel", "avx512f avx512_bf16", False),
        ("AuthenticAMD", "avx512f avx512_bf16", True),
        ("AuthenticAMD", "avx2", False),
    ],
    ids=["Xeon with AMX", "Xeon without AMX", "Zen 4 and later", "Zen 3"],
)
def test_a_processor_that_gains_nothing_from_bfloat16_computes_in_float32(vendor, flags, is_faster, tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\nvendor_id\t: {vendor}\nflags\t\t: fpu {flags} sse2\n\nprocessor\t: 1\n")
    assert cpu_is_faster_in_bfloat16(cpuinfo) is is_faster


def test_a_processor_that_tells_no_flags_computes_in_float32(tmp_path):
    assert not cpu_is_faster_in_bfloat16(tmp_path / "missing")


def test_only_auto_looks_at_the_processor():
    assert resolve_precision("32-true", CPU) == "32-true"
    assert resolve_precision("auto", CPU) == ("bf16-mixed" if cpu_is_faster_in_bfloat16() else "32-true")


def test_full_precision_takes_float32_images():
    config = PipelineConfig()
    assert resolve_pipeline(config, "32-true").output_dtype == "float32"
    assert resolve_pipeline(config, "bf16-mixed") is config


@pytest.mark.parametrize(
    ("gigabytes", "image_size", "device_type", "images"),
    [
        (80, 640, "cuda", 32),
        (80, 1600, "cuda", 8),
        (8, 640, "cuda", 4),
        (8, 1600, "cuda", 1),
        (16, 640, "cpu", 4),
        (16, 1600, "cpu", 1),
    ],
)
def test_evaluation_batches_fit_into_the_memory_of_the_device(gigabytes, image_size, device_type, images):
    assert fitting_images(gigabytes << 30, image_size, device_type) == images


def test_a_given_evaluation_batch_is_kept():
    given = DataLoaderConfig(eval_batch_size=3)
    assert resolve_loading(given, 640, CPU) is given
    assert resolve_loading(DataLoaderConfig(), 320, CPU).eval_batch_size in (1, 2, 4)


TOO_OLD = "The NVIDIA driver on your system is too old (found version 12040)."


@pytest.fixture
def unusable_gpu(monkeypatch, tmp_path):
    """A machine with a GPU whose driver is too old for this PyTorch."""

    def init():
        raise RuntimeError(TOO_OLD)

    (tmp_path / "nvidia0").touch()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(device_module, "DEVICES", tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "init", init)
    device_module._warn_of_unused_gpu.cache_clear()
    yield
    device_module._warn_of_unused_gpu.cache_clear()


def test_a_gpu_that_pytorch_cannot_use_is_named_once_with_the_reason(unusable_gpu, caplog):
    with caplog.at_level(logging.WARNING):
        assert [resolve_device("auto") for _ in range(2)] == [CPU, CPU]
    (warning,) = caplog.messages
    assert TOO_OLD in warning
    assert "export UV_NO_SYNC=1; uv pip install --no-config --torch-backend=auto" in warning
    with pytest.raises(
        InputError, match=r"^device=gpu: .* too old \(found version 12040\)\.\)\. .* --torch-backend=auto"
    ):
        resolve_device("gpu")


def test_no_warning_where_the_cpu_is_wanted_or_there_is_no_gpu(unusable_gpu, caplog, monkeypatch, tmp_path):
    with caplog.at_level(logging.WARNING):
        assert resolve_device("cpu") == CPU
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
        assert resolve_device("auto") == CPU
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
        (tmp_path / "nvidia0").unlink()
        assert resolve_device("auto") == CPU
    assert caplog.messages == []
