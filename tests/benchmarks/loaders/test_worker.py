"""Answers of a row in a process of its own."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.loaders.messages import Close, CompareWithOracle, MeasureRound, Open
from benchmarks.loaders.row_loader import CannotRun
from benchmarks.loaders.row_process import RowFailed, RowProcess
from benchmarks.loaders.rows import ROWS, Row
from benchmarks.loaders.workload import Workload
from tests.benchmarks.loaders.test_parity import workload_of

TIMEOUT = 100
CAN_RUN = [row for row in ROWS if not row.name.endswith(("_gpu", "_cuda"))]


@pytest.fixture(scope="module")
def workload(drawn: Path) -> Workload:
    return workload_of(drawn, 4)  # batches of 3: the last one is smaller


@contextmanager
def process_of(row: Row, workload: Workload, folder: Path) -> Iterator[RowProcess]:
    process = RowProcess(row.name, workload, folder / "row.log")
    try:
        yield process
    finally:
        process.end()


@pytest.mark.parametrize("row", CAN_RUN, ids=lambda row: row.name)
def test_row_agrees_with_the_oracle_as_far_as_its_filter_allows(workload, row, tmp_path):
    with process_of(row, workload, tmp_path) as process:
        try:
            opened = process.ask(Open("input+targets", 1), TIMEOUT)
        except CannotRun as reason:
            pytest.skip(f"{row.name}: {reason}")
        parity = process.ask(CompareWithOracle(), TIMEOUT)
        measured = process.ask(MeasureRound(0.0001, cold=True), TIMEOUT)
    assert opened.first_batch_seconds > 0
    assert parity.maps_equal
    assert parity.polygons_equal is (True if row.is_ours and row.name != "replay" else None)
    assert parity.in_order
    if row.is_ours and row.decodes_scaled:
        assert parity.mean_levels < 1
        assert parity.max_levels < 40
    elif row.is_ours:
        assert parity.mean_levels < 0.15
        assert parity.max_levels < 1.2
    elif "antialiased" in parity.resize_filter:
        assert parity.mean_levels < 0.3
    else:
        assert parity.mean_levels < 8
    assert measured.images % (6 if row.name == "replay" else 4) == 0
    assert measured.cpu_seconds > 0
    assert measured.peak_memory > 1e8


@pytest.mark.parametrize("name", ["torch", "dali_cpu", "turbojpeg", "spdl_scaled"])
def test_file_truncated_after_the_audit_is_named(workload, name, tmp_path):
    cut = tmp_path / "cut.jpg"
    content = Path(workload.train.image_paths[2]).read_bytes()
    cut.write_bytes(content[: len(content) // 2])
    paths = (*workload.train.image_paths[:2], str(cut), workload.train.image_paths[3])
    broken = replace(workload, train=replace(workload.train, image_paths=paths))
    with process_of(row_called(name), broken, tmp_path) as process:
        try:
            process.ask(Open("input", 1), TIMEOUT)
        except CannotRun as reason:
            pytest.skip(f"{name}: {reason}")
        except RowFailed as failure:
            told = str(failure)
        else:
            told = "opened"
    assert str(cut) in told


@pytest.mark.parametrize("name", ["dali_gpu", "torchvision_cuda"])
def test_row_that_needs_a_gpu_says_so(workload, name):
    with pytest.raises(CannotRun, match="no CUDA device"):
        row_called(name).open(workload, "input", 1)


@pytest.mark.parametrize("name", ["albumentations", "turbojpeg", "spdl_scaled", "wds", "dali_tensors"])
def test_rows_that_make_no_training_crops_say_so(workload, name):
    augmented = replace(workload, config=workload.config.model_copy(update={"augment": True}))
    with pytest.raises(CannotRun, match=r"augment=true|differ in each epoch"):
        row_called(name).open(augmented, "input", 1)


def test_row_that_hangs_or_ends_is_reported_as_failed(workload, tmp_path):
    with process_of(row_called("replay"), workload, tmp_path) as process:
        with pytest.raises(RowFailed, match="open a level first"):
            process.ask(CompareWithOracle(), TIMEOUT)
        process.ask(Open("input", 0), TIMEOUT)
        with pytest.raises(RowFailed, match=r"no answer within 1 s and was ended"):
            process.ask(MeasureRound(60), 1)
        with pytest.raises(RowFailed):
            process.ask(CompareWithOracle(), TIMEOUT)
    with process_of(row_called("replay"), workload, tmp_path) as process:
        process.ask(Close(), TIMEOUT)
        os.kill(process.pid, signal.SIGKILL)
        with pytest.raises(RowFailed, match="exit code -9"):
            process.ask(CompareWithOracle(), TIMEOUT)


def row_called(name: str) -> Row:
    return next(row for row in ROWS if row.name == name)
