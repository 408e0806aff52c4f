"""Whole runs on shards: what they learn, and what they say when shards are missing."""

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from ocr.command_line import compose_config
from ocr.config import EvaluateConfig, PredictConfig, PrepareConfig
from ocr.errors import InputError, StorageError
from ocr.inference import evaluate, predict
from ocr.preparation.prepare import prepare_data
from ocr.training.fit import train


@pytest.fixture
def run(tiny_run) -> Callable[..., list[dict]]:
    """Trains and returns the figures of the epochs."""
    return lambda folder, *overrides: train(tiny_run("logger.num_pictures=2", *overrides), folder)["epochs"]


def losses_and_scores(epochs: list[dict]) -> list[dict[str, float]]:
    return [{key: epoch[key] for key in ("train_loss", "val_loss", "hmean", "precision", "recall")} for epoch in epochs]


@pytest.fixture(scope="module")
def prepared(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The drawn set as shards, and as loose files turned upright."""
    root = tmp_path_factory.mktemp("data")
    overrides = ["data=upstage", f"dataset_base_path={drawn}", f"output={root}/prepared", "maps=false"]
    shards = ["splits=[train,val]", "shards=true", "shard_size=100KB"]
    prepare_data(compose_config(PrepareConfig, "prepare_data", [*overrides, *shards]), root / "report")
    report = json.loads((root / "report/report.json").read_text())
    assert report["train"]["shards"]["counts"]["made"] > 1
    return root / "prepared"


def evaluate_config(*overrides: str) -> EvaluateConfig:
    return compose_config(EvaluateConfig, "evaluate", overrides)


def predict_config(*overrides: str) -> PredictConfig:
    return compose_config(PredictConfig, "predict", overrides)


def test_a_run_on_shards_learns_what_a_run_on_files_learns(prepared, run, tmp_path):
    on_files = run(tmp_path / "files", "data=upstage", f"dataset_base_path={prepared}")
    on_shards = run(tmp_path / "shards", "data=webdataset", f"dataset_base_path={prepared}")
    assert losses_and_scores(on_shards) == losses_and_scores(on_files)
    assert (on_shards[1]["cache_hits"], on_shards[1]["cache_misses"]) == (8, 0)
    pictures = {path.name for path in (tmp_path / "files/pictures").iterdir()}
    assert pictures == {path.name for path in (tmp_path / "shards/pictures").iterdir()}
    assert json.loads((tmp_path / "shards/audit_train.json").read_text())["num_images"] == 10

    # Its checkpoint evaluates its own shards, loose files, and a folder of images.
    checkpoint = f"checkpoint={tmp_path}/shards/checkpoints/last.ckpt"
    scores = [
        evaluate(evaluate_config(checkpoint, "split=val", f"loader={loader}"), tmp_path / loader)
        for loader in ("webdataset", "dali")
    ]
    assert scores[0] == scores[1]
    assert scores[0]["images"] == 8
    # Another data set is read from its files, except with data=webdataset.
    fewer = tmp_path / "fewer"
    shutil.copytree(prepared / "images_val_canonical", fewer / "images/val")
    document = json.loads((prepared / "jsons/val.json").read_text())
    document["images"].popitem()
    (fewer / "jsons").mkdir()
    (fewer / "jsons/val.json").write_text(json.dumps(document))
    for data, folder, num_images in (("upstage", fewer, 7), ("webdataset", prepared, 8)):
        given = evaluate_config(checkpoint, "split=val", f"data={data}", f"dataset_base_path={folder}")
        assert evaluate(given, tmp_path / data)["images"] == num_images
    images = f"images={prepared}/images_val_canonical"
    found = predict(predict_config(checkpoint, images), tmp_path / "predicted")
    assert len(json.loads((found / "predictions.json").read_text())["images"]) == 8
    with pytest.raises(InputError, match=r"predict\.py finds text in image files"):
        predict(predict_config(checkpoint, images, "loader=webdataset"), tmp_path / "predicted")


def test_an_evaluation_that_ends_with_an_error_leaves_no_thread(prepared, run, tmp_path):
    data = shutil.copytree(prepared, tmp_path / "data")
    run(tmp_path / "run", "data=webdataset", f"dataset_base_path={data}", "trainer.max_epochs=1")
    before = set(threading.enumerate())
    for tar in (data / "shards/val").glob("*.tar"):
        tar.write_bytes(bytes(tar.stat().st_size))
    checkpoint = f"checkpoint={tmp_path}/run/checkpoints/last.ckpt"
    with pytest.raises(StorageError, match=r"shards/val/val-000000\.tar: the bytes of") as error:
        evaluate(evaluate_config(checkpoint, "split=val"), tmp_path / "scores")
    assert error.tb is not None  # it holds the loader: only its end ends the threads
    readers = {thread for thread in threading.enumerate() if thread.name.startswith("shard-reader")} - before
    for thread in readers:
        thread.join(timeout=10)
        assert not thread.is_alive()


def test_workers_that_read_through_webdataset_learn_what_loader_torch_learns(prepared, run, tmp_path):
    pytest.importorskip("webdataset", reason="needs uv sync --extra webdataset")
    one_epoch = ["trainer.max_epochs=1", f"dataset_base_path={prepared}", "dataloader.num_workers=1"]
    on_files = run(tmp_path / "files", "data=upstage", "loader=torch", *one_epoch)
    on_shards = run(tmp_path / "shards", "data=webdataset", "dataloader.shard_reader=webdataset", *one_epoch)
    assert losses_and_scores(on_shards) == losses_and_scores(on_files)


def test_a_data_set_without_shards_says_how_to_write_them(prepared, run, tmp_path):
    with pytest.raises(
        StorageError, match=r"none/shards/train/index\.columns: there is no such file; write the shards with"
    ):
        run(tmp_path / "run", "data=webdataset", f"dataset_base_path={tmp_path}/none")
    with pytest.raises(
        InputError, match=r"loader=webdataset reads tar shards, but `shards` .*is not set; write them with"
    ):
        run(tmp_path / "run", "data=icdar", "loader=webdataset", f"dataset_base_path={prepared}")
