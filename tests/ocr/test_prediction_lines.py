"""predictions.jsonl keeps whole lines of the same prediction, and nothing else."""

import json
import logging

import pytest

from ocr.prediction_lines import PredictionLines

HEADER = {"checkpoint": "c", "images": "i", "settings": "s"}
NAMES = ["a.jpg", "b.jpg", "c.jpg"]


def line(name, value=0):
    return json.dumps({"image": name, "value": value}).encode() + b"\n"


@pytest.fixture
def two_done(tmp_path):
    with PredictionLines(tmp_path, HEADER, NAMES) as lines:
        lines.append(line("a.jpg"))
        lines.append(line("b.jpg"))
    return tmp_path / "predictions.jsonl"


def test_lines_are_kept_and_continued(two_done):
    with PredictionLines(two_done.parent, HEADER, NAMES) as lines:
        assert lines.num_done == 2
        lines.append(line("c.jpg"))
        assert [found["image"] for found in lines.read()] == NAMES


@pytest.mark.parametrize(
    "end", [b'{"image": "b.jpg", "val', line("b.jpg")[:-1], b"\0\0\0\n", line("other.jpg"), b"[]\n"]
)
def test_a_line_that_is_cut_or_foreign_is_dropped(two_done, end, caplog):
    whole = two_done.read_bytes()[: -len(line("b.jpg"))]
    two_done.write_bytes(whole + end)
    with PredictionLines(two_done.parent, HEADER, NAMES) as lines:
        assert lines.num_done == 1
    assert two_done.read_bytes() == whole
    assert "line 3 is cut" in caplog.text


@pytest.mark.parametrize("changed", list(HEADER))
def test_another_header_starts_anew_and_keeps_the_earlier_lines(two_done, changed, caplog):
    before = two_done.read_bytes()
    with PredictionLines(two_done.parent, HEADER | {changed: "other"}, NAMES) as lines:
        assert lines.num_done == 0
    assert f"other {changed}: starting anew" in caplog.text
    assert two_done.with_name("earlier_predictions.jsonl").read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"[" * 100_000 + b"\n"], ids=["empty", "deep"])
def test_a_file_that_is_no_record_of_a_prediction_starts_anew(tmp_path, caplog, content):
    (tmp_path / "predictions.jsonl").write_bytes(content)
    with caplog.at_level(logging.WARNING), PredictionLines(tmp_path, HEADER, NAMES) as lines:
        assert lines.num_done == 0
    assert "cannot read: starting anew" in caplog.text
