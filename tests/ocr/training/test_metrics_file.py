import csv
from pathlib import Path

import pytest

from ocr.errors import StorageError
from ocr.training.metrics_file import MetricsFile
from tests.full_disk import largest_file


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def logged(file: MetricsFile, *steps: int, **metrics: float) -> None:
    for step in steps:
        file.log_metrics({"loss": step / 2, **metrics}, step=step)
        file.save()


def test_a_new_metric_gets_a_column_and_earlier_lines_stay(tmp_path):
    file = MetricsFile(tmp_path / "metrics.csv")
    logged(file, 0, 1)
    logged(file, 2, hmean=0.5)
    assert rows(file.path) == [
        {"hmean": "", "loss": "0.0", "step": "0"},
        {"hmean": "", "loss": "0.5", "step": "1"},
        {"hmean": "0.5", "loss": "1.0", "step": "2"},
    ]


def test_a_new_run_replaces_the_file_and_a_resumed_one_drops_lost_and_cut_lines(tmp_path):
    path = tmp_path / "metrics.csv"
    logged(MetricsFile(path), *range(5))
    path.write_bytes(path.read_bytes() + b"2.5,")
    logged(MetricsFile(path, first_step=3), 3)
    assert [row["step"] for row in rows(path)] == ["0", "1", "2", "3"]
    logged(MetricsFile(path), 0)
    assert [row["step"] for row in rows(path)] == ["0"]


def test_a_full_disk_leaves_whole_lines(tmp_path):
    file = MetricsFile(tmp_path / "metrics.csv")
    logged(file, *range(10))
    before = file.path.read_bytes()
    with (
        largest_file(len(before) + 3),
        pytest.raises(StorageError, match=r"metrics\.csv: cannot be written: File too large"),
    ):
        logged(file, 10)
    assert file.path.read_bytes() == before
