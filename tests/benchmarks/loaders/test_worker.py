"""What a row answers, in a process of its own."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.loaders.row_process import RowFailed, RowProcess
from benchmarks.loaders.rows import ROWS, Row
from benchmarks.loaders.setting import Setting
from benchmarks.loaders.source import CannotRun
from ocr.synthetic.config import SyntheticConfig
from ocr.synthetic.data_set import draw_data_set
from tests.benchmarks.loaders.test_parity import setting_of

TIMEOUT = 100
CAN_RUN = [row for row in ROWS if not row.name.endswith(("_gpu", "_cuda"))]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    root = tmp_path_factory.mktemp("drawn")
    draw_data_set(SyntheticConfig(num_train=1, num_val=4, exif_share=0.5), root)
    return setting_of(root, 4)  # batches of 3: the last one is smaller


@contextmanager
def process_of(row: Row, setting: Setting, folder: Path) -> Iterator[RowProcess]:
    process = RowProcess(row.name, setting, folder / "row.log")
    try:
        yield process
    finally:
        process.end()


@pytest.mark.parametrize("row", CAN_RUN, ids=lambda row: row.name)
def test_a_row_is_as_far_from_the_oracle_as_it_says(drawn, row, tmp_path):
    with process_of(row, drawn, tmp_path) as process:
        try:
            opened = process.ask("open", TIMEOUT, level="input+targets", num_workers=1)
        except CannotRun as reason:
            pytest.skip(f"{row.name}: {reason}")
        parity = process.ask("parity", TIMEOUT)
        measured = process.ask("measure", TIMEOUT, seconds=0.0001, cold=True)
    assert opened["first_batch_seconds"] > 0
    assert parity["maps_equal"]
    assert parity["polygons_equal"] is (True if row.is_ours and row.name != "replay" else None)
    assert parity["in_order"]
    if row.is_ours:
        assert parity["mean_levels"] < 0.15
        assert parity["max_levels"] < 1.2
    elif "antialiased" in parity["resize_filter"]:
        assert parity["mean_levels"] < 0.3
    else:
        assert parity["mean_levels"] < 8
    assert measured["images"] % (6 if row.name == "replay" else 4) == 0
    assert measured["cpu_seconds"] > 0
    assert measured["peak_memory"] > 1e8


@pytest.mark.parametrize("name", ["torch", "dali_cpu", "turbojpeg", "spdl_scaled"])
def test_a_file_that_is_cut_after_the_audit_is_named_by_the_row_that_reads_it(drawn, name, tmp_path):
    cut = tmp_path / "cut.jpg"
    content = Path(drawn.train.image_paths[2]).read_bytes()
    cut.write_bytes(content[: len(content) // 2])
    paths = (*drawn.train.image_paths[:2], str(cut), drawn.train.image_paths[3])
    broken = replace(drawn, train=replace(drawn.train, image_paths=paths))
    with process_of(row_called(name), broken, tmp_path) as process:
        try:
            process.ask("open", TIMEOUT, level="input", num_workers=1)
        except CannotRun as reason:
            pytest.skip(f"{name}: {reason}")
        except RowFailed as failure:
            told = str(failure)
        else:
            told = "opened"
    assert str(cut) in told


@pytest.mark.parametrize("name", ["dali_gpu", "torchvision_cuda"])
def test_a_row_that_needs_a_gpu_says_so(drawn, name):
    with pytest.raises(CannotRun, match="no CUDA device"):
        row_called(name).open(drawn, "input", 1)


@pytest.mark.parametrize("name", ["albumentations", "turbojpeg", "spdl_scaled", "wds", "dali_tensors"])
def test_rows_that_make_no_training_crops_say_so(drawn, name):
    augmented = replace(drawn, config=drawn.config.model_copy(update={"augment": True}))
    with pytest.raises(CannotRun, match=r"augment=true|differ in each epoch"):
        row_called(name).open(augmented, "input", 1)


def test_a_row_that_ends_is_told_from_one_that_answers(drawn, tmp_path):
    with process_of(row_called("replay"), drawn, tmp_path) as process:
        with pytest.raises(RowFailed, match="open a level first"):
            process.ask("parity", TIMEOUT)
        process.ask("open", TIMEOUT, level="input", num_workers=0)
        with pytest.raises(RowFailed, match=r"no answer within 1 s and was ended"):
            process.ask("measure", 1, seconds=60, cold=False)
        with pytest.raises(RowFailed):
            process.ask("parity", TIMEOUT)
    with process_of(row_called("replay"), drawn, tmp_path) as process:
        process.ask("close", TIMEOUT)
        os.kill(process.pid, signal.SIGKILL)
        with pytest.raises(RowFailed, match="exit code -9"):
            process.ask("parity", TIMEOUT)


def row_called(name: str) -> Row:
    return next(row for row in ROWS if row.name == name)
