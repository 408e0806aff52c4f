"""The self-test finds what is broken. tests/docker/test_entrypoint.py runs the command itself."""

import sys
from dataclasses import replace

import pytest
import torch

from ocr import self_test
from ocr.errors import InputError
from ocr.self_test import CheckFailed
from ocr.targets.target_maps import TargetMaps

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def batches(tmp_path_factory):
    dataset = self_test.drawn_receipt(tmp_path_factory.mktemp("self_test") / "receipt")
    return tuple(self_test.read_batch(dataset, loader, CPU) for loader in ("dali", "torch"))


def test_both_loaders_give_the_receipt(batches):
    dali, plain = batches
    assert dali.images.shape == plain.images.shape == (1, 3, 640, 640)
    assert dali.targets is not None
    assert self_test.check_pixels(dali, plain, 0.1).startswith("(1, 3, 640, 640), differs from loader=torch by 0.0")


def test_pixels_moved_by_one_column_are_found(batches):
    dali, plain = batches
    moved = replace(dali, images=dali.images.roll(1, dims=3))
    with pytest.raises(CheckFailed, match=r"differ from those of loader=torch by \d+\.\d+ levels on average"):
        self_test.check_pixels(moved, plain, 0.5)


def test_nan_pixels_are_found(batches):
    dali, plain = batches
    with pytest.raises(CheckFailed, match="by nan levels"):
        self_test.check_pixels(replace(dali, images=dali.images * float("nan")), plain, 0.5)


def test_targets_moved_by_a_few_pixels_are_found(batches):
    dali, _ = batches
    maps = self_test.check_targets(dali)
    moved = TargetMaps(maps.shrink_map.roll(3, dims=1), maps.shrink_mask, maps.thresh_map, maps.thresh_mask)
    with pytest.raises(CheckFailed, match="differs from the reference in"):
        self_test.check_targets(replace(dali, targets=moved))


def test_targets_without_text_are_found(batches):
    dali, _ = batches
    maps = self_test.check_targets(dali)
    empty = TargetMaps(maps.shrink_map * 0, maps.shrink_mask, maps.thresh_map, maps.thresh_mask)
    with pytest.raises(CheckFailed, match="has 0 text pixels"):
        self_test.check_targets(replace(dali, targets=empty))
    with pytest.raises(CheckFailed, match=r"found 0 of \d+ texts"):
        self_test.check_postprocessing(dali, empty)


def test_a_nan_loss_is_found(batches):
    dali, _ = batches
    with pytest.raises(CheckFailed, match="the loss was nan"):
        self_test.train_step(replace(dali, images=dali.images * float("nan")), CPU)


@pytest.mark.parametrize(
    ("device", "visible", "num_gpus"),
    [("auto", "all", 1), ("auto", "", 0), ("auto", "void", 0), ("auto", "none", 0), ("cpu", "all", 0), ("gpu", "", 1)],
)
def test_a_gpu_that_exists_or_was_not_requested_passes(device, visible, num_gpus):
    self_test.check_gpu(device, {"NVIDIA_VISIBLE_DEVICES": visible}, num_gpus)


@pytest.mark.parametrize(
    ("device", "environment", "named"),
    [
        ("auto", {"NVIDIA_VISIBLE_DEVICES": "all"}, "NVIDIA_VISIBLE_DEVICES=all"),
        ("auto", {"NVIDIA_VISIBLE_DEVICES": "0,1"}, "NVIDIA_VISIBLE_DEVICES=0,1"),
        ("gpu", {}, "--device gpu"),
    ],
)
def test_a_requested_gpu_that_is_missing_fails_with_what_to_do(device, environment, named):
    with pytest.raises(CheckFailed, match=rf"requested \({named}\), but PyTorch finds none.*--gpus all"):
        self_test.check_gpu(device, environment, 0)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_the_command_ends_with_the_failed_check_and_exit_code_1(monkeypatch, capsys):
    monkeypatch.setenv("NVIDIA_VISIBLE_DEVICES", "all")
    assert self_test.main(["--beside-a-run"]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("self-test FAILED: CheckFailed: a GPU was requested (NVIDIA_VISIBLE_DEVICES=all)")
    assert "passed" not in captured.out


@pytest.mark.parametrize(("loader", "said"), [("auto", "DALI is not installed; not checked"), ("torch", "not checked")])
def test_all_checks_pass_without_dali(loader, said, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    self_test.run_checks("cpu", loader, tmp_path / "receipt")
    printed = capsys.readouterr().out
    assert f"loader=dali: {said}\n" in printed
    assert "texts found in their target map" in printed


def test_a_missing_dali_fails_where_it_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    with pytest.raises(InputError, match="loader=dali needs NVIDIA DALI"):
        self_test.run_checks("cpu", "dali", tmp_path / "receipt")


@pytest.mark.gpu
def test_all_checks_pass_on_a_gpu(tmp_path):
    self_test.run_checks("gpu", "dali", tmp_path / "receipt")


@pytest.mark.gpu
def test_a_check_beside_a_run_takes_no_gpu_memory(tmp_path):
    before = torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()
    self_test.run_checks("auto", "dali", tmp_path / "receipt", beside_a_run=True)
    assert (torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()) == before
