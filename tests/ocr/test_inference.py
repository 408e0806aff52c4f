import shutil

import pytest
import torch

from ocr.checkpoint import CONFIG_KEY
from ocr.config import EvaluateConfig, PredictConfig
from ocr.errors import InputError
from ocr.inference import evaluate, predict


@pytest.mark.parametrize("output", ["", "images", "images/found"])
def test_predict_refuses_to_write_among_the_images(tmp_path, output):
    images = tmp_path / "images" if output else tmp_path
    config = PredictConfig(checkpoint="any.ckpt", images=str(images), output=str(tmp_path / output))
    with pytest.raises(InputError, match="lies in the folder of images"):
        predict(config, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def _checkpoint_with(tmp_path, source, **config):
    checkpoint = torch.load(source, weights_only=True)
    checkpoint[CONFIG_KEY] |= config
    torch.save(checkpoint, tmp_path / "stranger.ckpt")
    return str(tmp_path / "stranger.ckpt")


def _split(root, **values):
    return {"config": {"image_path": f"{root}/images/val", "annotation_path": f"{root}/jsons/val.json"} | values}


def test_a_checkpoint_cannot_make_evaluate_draw_a_data_set(tmp_path, untrained_checkpoint):
    elsewhere = tmp_path / "elsewhere"
    checkpoint = _checkpoint_with(
        tmp_path,
        untrained_checkpoint,
        draw_synthetic=True,
        dataset_base_path=str(elsewhere),
        synthetic={"num_train": 1, "num_val": 1},
        datasets={"val_dataset": _split(elsewhere)},
    )
    with pytest.raises(InputError, match=r"elsewhere/images/val: no such folder; .*data=synthetic"):
        evaluate(EvaluateConfig(checkpoint=checkpoint, split="val"), tmp_path / "run")
    assert not elsewhere.exists()


def test_a_checkpoint_cannot_make_evaluate_replace_a_drawn_data_set(tmp_path, drawn, untrained_checkpoint):
    copy = shutil.copytree(drawn, tmp_path / "copy")
    before = sorted((path, path.stat().st_mtime_ns) for path in copy.rglob("*"))
    checkpoint = _checkpoint_with(
        tmp_path,
        untrained_checkpoint,
        draw_synthetic=True,
        dataset_base_path=str(copy),
        synthetic={"num_train": 1, "num_val": 1},
        datasets={"val_dataset": _split(copy, cache_config={"directory": str(tmp_path / "cache")})},
    )
    metrics = evaluate(EvaluateConfig(checkpoint=checkpoint, split="val"), tmp_path / "run")
    assert metrics["images"] == 8
    assert sorted((path, path.stat().st_mtime_ns) for path in copy.rglob("*")) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "run", "stranger.ckpt"]
