"""Prediction and evaluation that end early continue where they stopped, with the results of a run without interruption."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from ocr.config import DatasetsConfig, EvaluateConfig, PredictConfig
from ocr.inference import evaluate, predict
from tests.programs import Program

SCRIPT = Path(__file__).resolve().parents[2] / "scripts/predict.py"
POSTPROCESS = {"box_thresh": 0.3, "bin_thresh": 0.3}


def settings(checkpoint, **more):
    common = {"checkpoint": str(checkpoint), "device": "cpu", "loader": "torch", "batch_size": 2}
    return {**common, "precision": "32-true", "postprocess": POSTPROCESS, **more}


def files_of(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def cut(path, num_whole_lines, rest=b""):
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[: num_whole_lines + 1]) + rest)


@pytest.fixture
def predicted(untrained_checkpoint, drawn, tmp_path):
    """A whole prediction in the folder `found` of copied images."""
    images = shutil.copytree(drawn / "images/val", tmp_path / "images")
    config = PredictConfig(**settings(untrained_checkpoint, images=str(images), output=str(tmp_path / "found")))
    predict(config, tmp_path / "run")
    return config, tmp_path / "found"


def test_a_cut_prediction_continues_to_the_same_bytes_without_drawing_again(predicted):
    config, found = predicted
    whole = files_of(found)
    cut(found / "predictions.jsonl", 5, b'{"image": "val_0')
    (found / "predictions.json").unlink()
    first, *_, last = sorted((found / "pictures").iterdir())
    first.write_bytes(b"not drawn again")
    last.unlink()
    predict(config, found)
    assert files_of(found) == whole | {f"pictures/{first.name}": b"not drawn again"}


def test_a_changed_image_or_checkpoint_or_setting_starts_anew(predicted, tmp_path, caplog):
    config, found = predicted
    cut(found / "predictions.jsonl", 5)
    image = next((tmp_path / "images").iterdir())
    os.utime(image, ns=(1, 1))
    predict(config, found)
    assert "other images: starting anew" in caplog.text
    other = config.model_copy(update={"checkpoint": str(shutil.copy(config.checkpoint, tmp_path / "other.ckpt"))})
    with open(other.checkpoint, "ab") as file:
        file.write(b"\0")
    predict(other.model_copy(update={"draw": False}), found)
    assert "other checkpoint and other settings: starting anew" in caplog.text


def test_an_evaluation_continues_to_the_same_scores(untrained_checkpoint, drawn, tmp_path):
    split = {"image_path": f"{drawn}/images/val", "annotation_path": f"{drawn}/jsons/val.json"}
    sets = {"config": split | {"sets": [split | {"name": "a"}, split | {"name": "b"}]}}
    datasets = DatasetsConfig.model_validate({"val_dataset": sets})
    config = EvaluateConfig(**settings(untrained_checkpoint, split="val", datasets=datasets))
    metrics = evaluate(config, tmp_path)
    whole = files_of(tmp_path)
    assert list(json.loads(whole["predictions.json"])["images"])[::15] == ["a/val_00000.jpg", "b/val_00007.jpg"]
    cut(tmp_path / "predictions.jsonl", 11)
    (tmp_path / "metrics.json").unlink()
    assert evaluate(config, tmp_path) == metrics
    assert files_of(tmp_path) == whole


def test_ctrl_c_keeps_what_is_done_and_the_same_command_continues(untrained_checkpoint, drawn, tmp_path):
    images = tmp_path / "images"
    for number in range(40):
        shutil.copytree(drawn / "images/val", images / f"{number:02}")
    overrides = [f"checkpoint={untrained_checkpoint}", f"images={images}", "output=found"]
    overrides += ["device=cpu", "loader=torch", "batch_size=2", "draw=false", "precision=32-true"]
    program = Program(SCRIPT, *overrides, cwd=tmp_path, merged=True)
    lines = tmp_path / "found/predictions.jsonl"
    deadline = time.monotonic() + 120
    while (
        time.monotonic() < deadline
        and program.returncode is None
        and not (lines.is_file() and lines.stat().st_size > 500)
    ):
        time.sleep(0.05)
    program.send_signal(signal.SIGINT)
    done = program.wait(60)
    assert done.returncode == 130, done.stdout
    num_done = len(lines.read_bytes().splitlines()) - 1
    last = [text for text in done.stdout.splitlines() if "SIGINT ended the run" in text][-1]
    assert f"{num_done} of 320 images are done" in last
    assert last.endswith("the same command continues")
    assert 0 < num_done < 320
    assert not (tmp_path / "found/predictions.json").exists()
    assert not (tmp_path / "found/.lock").exists()
