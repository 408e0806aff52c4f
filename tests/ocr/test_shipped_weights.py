"""The weights that come with the package find text, begin a training, and are small."""

import json
import logging
import re
from pathlib import Path

import pytest
import torch

from ocr import TextDetector
from ocr.checkpoint import load_checkpoint, read_weights
from ocr.config import SHIPPED_WEIGHTS, EvaluateConfig, PredictConfig, TrainConfig
from ocr.given_files import SHIPPED
from ocr.inference import evaluate, predict
from ocr.training.initial_network import initial_network, with_network_of_file
from ocr.weights_file import read_weights_file

FILE = SHIPPED / f"{SHIPPED_WEIGHTS}.safetensors"
SETTINGS = {"device": "cpu", "precision": "32-true", "batch_size": 1}


def validation_scores(folder: Path, run_dir: Path, names: list[str]) -> dict[str, float]:
    """Scores of the shipped weights on some validation images of a data set in the Upstage layout."""
    images = json.loads((folder / "jsons/val.json").read_text())["images"]
    (run_dir / "chosen.json").write_text(json.dumps({"images": {name: images[name] for name in names}}))
    split = {
        "image_path": str(folder / "images/val"),
        "annotation_path": str(run_dir / "chosen.json"),
        "annotation_format": "upstage",
        "audit_memo": "cache",
    }
    config = EvaluateConfig.model_validate(
        {
            **SETTINGS,
            "checkpoint": SHIPPED_WEIGHTS,
            "split": "val",
            "report": {"num_images": 0},
            "datasets": {"val_dataset": {"config": split}},
        }
    )
    return evaluate(config, run_dir / "run")


def test_the_file_is_at_most_10_mb_and_carries_its_card_and_licence():
    text, _ = read_weights_file(FILE, "checkpoint")
    assert FILE.stat().st_size <= 10_000_000
    assert text["license"] == "Apache-2.0"
    assert text["card"] == (SHIPPED / "README.md").read_text()


def test_the_log_names_the_card_that_is_installed_with_them(caplog):
    with caplog.at_level(logging.INFO):
        load_checkpoint(SHIPPED_WEIGHTS)
    (named,) = re.findall(r"come with this package; (\S+) says what they know", caplog.text)
    assert Path(named).is_file()
    assert Path(named).parent == SHIPPED


def test_a_detector_and_a_prediction_without_checkpoint_find_the_same_text(drawn, tmp_path):
    images = sorted((drawn / "images/val").glob("*.jpg"))[:2]
    given = PredictConfig(images=tuple(map(str, images)), output=str(tmp_path), loader="torch", draw=False, **SETTINGS)
    predictions = json.loads((predict(given, tmp_path) / "predictions.json").read_text())["images"]
    detector = TextDetector(**SETTINGS)
    assert {path.name: detector(path).to_dict() for path in images} == predictions
    assert sum(len(image["words"]) for image in predictions.values()) > 10


def test_they_find_the_text_of_drawn_receipts(drawn, tmp_path):
    names = sorted(path.name for path in (drawn / "images/val").iterdir())[:3]
    assert validation_scores(drawn, tmp_path, names)["hmean"] > 0.6


@pytest.mark.parametrize(("data", "least"), [("sroie", 0.9), ("icdar15", 0.5)])
def test_they_find_the_text_of_real_images(data, least, tmp_path, request):
    folder = request.getfixturevalue(data)
    names = sorted(path.name for path in (folder / "images/val").iterdir())[:6]
    assert validation_scores(folder, tmp_path, names)["hmean"] > least


def test_a_training_can_begin_with_them():
    config = with_network_of_file(TrainConfig(init_from=SHIPPED_WEIGHTS), given=["init_from"])
    network = initial_network(config)
    for name, value in read_weights(SHIPPED_WEIGHTS).state.items():
        assert torch.equal(network.state_dict()[name], value.to(network.state_dict()[name].dtype))
