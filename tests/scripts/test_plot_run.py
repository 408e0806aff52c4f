"""scripts/plot_run.py on summaries of several runs and sets."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCORES = {"hmean": 0.5, "hmean_iou0.7": 0.25}


def epoch(loss: float, *sets: str, is_validated: bool = True) -> dict[str, Any]:
    scores = SCORES | ({"sets": {name: SCORES for name in sets}} if sets else {})
    return {"train_loss": loss} | (scores if is_validated else {})


@pytest.fixture(scope="module")
def plot_run() -> ModuleType:
    file = Path(__file__).resolve().parents[2] / "scripts/plot_run.py"
    spec = importlib.util.spec_from_file_location("plot_run", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_runs_continue_each_other_and_a_set_has_one_colour_and_one_line_in_the_legend(plot_run):
    runs = [[epoch(5, "receipts", "scenes"), epoch(4, is_validated=False)], [epoch(3, "scenes")]]
    score_axis, loss_axis = plot_run.draw(runs).axes
    losses = [line for line in loss_axis.lines if line.get_color() == "0.4"]
    assert [list(zip(*line.get_data(), strict=True)) for line in losses] == [[(1, 5), (2, 4)], [(3, 3)]]
    labels = [f"{name} IoU {iou}" for name in ("receipts", "scenes") for iou in ("0.5", "0.7")]
    assert [text.get_text() for text in score_axis.get_legend().get_texts()] == labels
    colours = {line.get_label(): line.get_color() for line in score_axis.lines if line.get_label() in labels}
    assert [colours[label] for label in labels] == ["C0", "C0", "C1", "C1"]
    strict = [line for line in score_axis.lines if line.get_label() == "scenes IoU 0.7"]
    assert [list(zip(*line.get_data(), strict=True)) for line in strict] == [[(1, 0.25)], [(3, 0.25)]]


@pytest.mark.parametrize("epochs", [[], [epoch(5, is_validated=False)], [{"train_loss": 5, "hmean": 0.5}]])
def test_runs_without_epochs_validations_or_the_strict_score_are_drawn_too(plot_run, tmp_path, epochs):
    file = tmp_path / "summary.json"
    file.write_text(json.dumps({"epochs": epochs}))
    plot_run.main([file], tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_other_files_and_a_missing_picture_are_named_in_one_line(plot_run, tmp_path):
    summary, config = tmp_path / "summary.json", tmp_path / "config.yaml"
    summary.write_text('{"epochs": []}')
    config.write_text("seed: 1")
    for files, picture, said in (
        ([tmp_path / "none.json"], "curve.png", "none.json: not the summary.json of a run: .*No such file"),
        ([tmp_path], "curve.png", "not the summary.json of a run: .*Is a directory"),
        ([config], "curve.png", "config.yaml: not the summary.json"),
        ([summary], "summary.json", "expected a picture as the last file, such as curve.png"),
    ):
        with pytest.raises(SystemExit, match=said):
            plot_run.main(files, tmp_path / picture)
    assert summary.read_text() == '{"epochs": []}'
