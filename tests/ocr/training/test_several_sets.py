"""Whole runs on several data sets: scores of each, names in predictions.json, and a list of one."""

import csv
import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ocr.command_line import compose_config
from ocr.config import EvaluateConfig, TrainConfig
from ocr.errors import InputError
from ocr.inference import evaluate
from ocr.training.fit import train


def sets_of(split: str, **roots: Path) -> str:
    """Returns the override with the split of several Upstage folders, by name."""
    sets = [
        f"{{name:{name},image_path:{root}/images/{split},annotation_path:{root}/jsons/{split}.json}}"
        for name, root in roots.items()
    ]
    return f"[{','.join(sets)}]"


def results(folder: Path, epochs: list[dict[str, Any]]) -> list[Any]:
    names = ("train_loss", "val_loss", "hmean", "precision", "recall", "hmean_iou0.7")
    predictions = json.loads((folder / "predictions.json").read_text())
    return [predictions, *({name: epoch[name] for name in names} for epoch in epochs)]


def test_a_list_of_one_gives_the_results_of_the_plain_form(tiny_run, drawn, tmp_path):
    plain = train(tiny_run("trainer.max_epochs=1"), tmp_path / "plain")
    lists = [f"datasets.{split}_dataset.config={sets_of(split, only=drawn)}" for split in ("train", "val")]
    listed = train(tiny_run("trainer.max_epochs=1", *lists), tmp_path / "listed")
    assert results(tmp_path / "listed", listed["epochs"]) == results(tmp_path / "plain", plain["epochs"])
    assert "sets" not in listed


@pytest.fixture
def two_sets(tiny_run: Callable[..., TrainConfig], drawn: Path, copied_set: Path) -> TrainConfig:
    """A run on two sets whose files have the same names; the second one has fewer words in validation."""
    document = json.loads((copied_set / "jsons/val.json").read_text())
    for entry in document["images"].values():
        entry["words"] = dict(list(entry["words"].items())[:1])
    (copied_set / "jsons/val.json").write_text(json.dumps(document))
    train_sets = sets_of("train", drawn=drawn, own=copied_set).replace("{name:drawn,", "{name:drawn,weight:1,")
    train_sets = train_sets.replace("{name:own,", "{name:own,weight:3,")
    return tiny_run(
        "trainer.max_epochs=1",
        "logger.num_pictures=20",
        f"datasets.train_dataset.config={train_sets}",
        f"datasets.val_dataset.config={sets_of('val', drawn=drawn, own=copied_set)}",
    )


def test_a_run_reports_each_set_and_the_whole(two_sets, drawn, copied_set, tmp_path, caplog):
    folder = tmp_path / "run"
    summary = train(two_sets, folder)
    assert set(summary["sets"]) == set(summary["epochs"][0]["sets"]) == {"drawn", "own"}
    assert set(summary["sets"]["own"]) == {"hmean", "precision", "recall", "hmean_iou0.7"}
    with (folder / "metrics.csv").open() as file:
        columns = set(next(csv.reader(file)))
    assert {f"val/{score}/{name}" for score in ("hmean", "precision", "recall") for name in ("drawn", "own")} <= columns

    names = sorted(json.loads((drawn / "jsons/val.json").read_text())["images"])
    predicted = json.loads((folder / "predictions.json").read_text())["images"]
    assert sorted(predicted) == [f"{one}/{name}" for one in ("drawn", "own") for name in names]
    for name in names:  # the images are the same, only their annotations differ
        assert predicted[f"drawn/{name}"] == predicted[f"own/{name}"]
    assert len(list((folder / "pictures").rglob("*.jpg"))) == 16
    assert {path.name for path in folder.glob("audit_*")} == {
        f"audit_{split}_{one}.json" for split in ("train", "val") for one in ("drawn", "own")
    }

    # The checkpoint evaluates the same sets again; each of them scores what it scores by itself.
    checkpoint = f"checkpoint={folder}/checkpoints/last.ckpt"
    caplog.set_level(logging.INFO)
    together = evaluate(compose_config(EvaluateConfig, "evaluate", [checkpoint, "split=val"]), tmp_path / "together")
    assert together["images"] == 16
    scores = [together["sets"]["own"][name] for name in ("hmean", "precision", "recall", "hmean_iou0.7")]
    line = "own: hmean %.4f, precision %.4f, recall %.4f at IoU 0.5; hmean %.4f at IoU 0.7; 8 images"
    assert line % tuple(scores) in [re.sub(r" ± [0-9.]+", "", message) for message in caplog.messages]
    for name, root in (("drawn", drawn), ("own", copied_set)):
        overrides = [checkpoint, "split=val", "data=upstage", f"dataset_base_path={root}"]
        alone = evaluate(compose_config(EvaluateConfig, "evaluate", overrides), tmp_path / name)
        scored = ("hmean", "precision", "recall", "hmean_iou0.7", "hmean_error", "hmean_iou0.7_error", "images")
        assert together["sets"][name] == {key: alone[key] for key in scored}


def test_shards_of_several_sets_are_refused_by_name(two_sets, tmp_path):
    with pytest.raises(InputError, match=r"loader=webdataset reads the shards of one data set, .* 2 \(drawn, own\)"):
        train(two_sets.model_copy(update={"loader": "webdataset"}), tmp_path / "run")
