import json
import logging
import shutil
from pathlib import Path

import pytest
import torch

from dali_pipelines.config import PipelineConfig
from ocr.cache.key import NOT_IN_ENTRIES
from ocr.checkpoint import CONFIG_KEY
from ocr.command_line import compose_config
from ocr.config import EvaluateConfig, EvaluatedDatasetConfig, PredictConfig, TrainConfig
from ocr.errors import InputError
from ocr.inference import evaluate, predict
from ocr.inference.evaluation import _say_scores
from ocr.inference.one_pass import _build_trainer
from ocr.restore import restore


@pytest.mark.parametrize("output", ["", "images", "images/found"])
def test_predict_refuses_to_write_among_the_images(tmp_path, output):
    images = tmp_path / "images" if output else tmp_path
    config = PredictConfig(checkpoint="any.ckpt", images=str(images), output=str(tmp_path / output))
    with pytest.raises(InputError, match="lies in the folder of images"):
        predict(config, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_predict_refuses_an_output_that_is_a_file_before_it_loads_anything(tmp_path, drawn):
    (tmp_path / "found").write_text("")
    config = PredictConfig(checkpoint="any.ckpt", images=str(drawn / "images/val"), output=str(tmp_path / "found"))
    with pytest.raises(
        InputError, match=r"^output=.*/found: found a file, .*/found, expected a folder; choose another"
    ):
        predict(config, tmp_path / "run")


def test_predict_without_images_says_how_to_give_them(tmp_path):
    with pytest.raises(InputError, match=r"^images is not set; give images=FOLDER, an image file, or a pattern"):
        predict(PredictConfig(output=str(tmp_path / "found")), tmp_path / "run")


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


@pytest.mark.parametrize("form", ["file", "pattern", "list"])
def test_predict_reads_only_the_images_that_are_named(tmp_path, drawn, untrained_checkpoint, form):
    folder = drawn / "images/val"
    names = sorted(path.name for path in folder.iterdir())
    given, expected = str(folder / names[0]), names[:1]
    if form == "pattern":
        given, expected = str(folder / "*00[0-2].jpg"), names[:3]
    elif form == "list":
        given, expected = str(tmp_path / "chosen.txt"), names[1:3]
        Path(given).write_text("".join(f"{folder / name}\n" for name in expected))
    config = PredictConfig(
        checkpoint=str(untrained_checkpoint), images=given, output=str(tmp_path / "found"), loader="torch", draw=False
    )
    predictions = json.loads((predict(config, tmp_path) / "predictions.json").read_text())
    assert sorted(predictions["images"]) == expected


def test_predict_draws_the_synthetic_set_if_no_images_are_named(tmp_path, untrained_checkpoint):
    given = ["data=synthetic", f"dataset_base_path={tmp_path / 'data'}", "synthetic.num_train=1", "synthetic.num_val=2"]
    given += ["synthetic.min_side=256", "synthetic.max_side=256", "loader=torch", "device=cpu", "draw=false"]
    config = compose_config(PredictConfig, "predict", [f"checkpoint={untrained_checkpoint}", *given])
    predictions = json.loads((predict(config, tmp_path / "found") / "predictions.json").read_text())
    assert len(predictions["images"]) == 2


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


def test_an_evaluation_has_the_inputs_and_the_metric_of_its_checkpoints_run(tmp_path, untrained_checkpoint):
    pipeline = {
        "image_size": 256,
        "mean": [1, 2, 3],
        "std": [4, 5, 6],
        "jpeg_fancy_upsampling": False,
        "output_dtype": "float16",
        "output_layout": "HWC",
        "scaled_decode": True,
        "max_megapixels": 7,
    }
    split = {
        "image_path": "/images",
        "annotation_path": "/annotations",
        "annotation_format": "icdar",
        "annotation_set": "val",
        "annotation_frame": "upright",
        "shards": "/shards",
        "image_extensions": [".png"],
        "on_bad_sample": "skip",
        "check_pixels": False,
    }
    checkpoint = _checkpoint_with(
        tmp_path,
        untrained_checkpoint,
        pipeline=pipeline,
        datasets={"val_dataset": {"config": split}},
        targets={"shrink_ratio": 0.55, "min_side": 3},
        trainer={"channels_last": False, "precision": "bf16-mixed"},
        metric="cleval",
        loader="torch",
    )
    settings, _ = restore(EvaluateConfig(checkpoint=checkpoint, device="cpu"))
    assert settings.pipeline == PipelineConfig.model_validate(pipeline)
    # The others do not change an input, or say how much of the machine to use.
    assert pipeline.keys() | NOT_IN_ENTRIES | {"hw_decoder_load"} == PipelineConfig.model_fields.keys()
    found = settings.datasets.val_dataset.config
    assert found == EvaluatedDatasetConfig.model_validate(
        split | {"audit_memo": "cache", "cache_config": found.cache_config}
    )
    assert (settings.targets.shrink_ratio, settings.targets.min_side) == (0.55, 3)
    assert (settings.trainer.channels_last, settings.trainer.precision) == (False, "bf16-mixed")
    assert (settings.metric, settings.loader) == ("cleval", "torch")


def test_a_pass_takes_the_current_gpu(monkeypatch):
    """A Python program, or a training in it, may have chosen another than the first one; the inputs are read for that one."""
    for name, answer in (("is_available", True), ("is_initialized", True), ("current_device", 1), ("device_count", 2)):
        monkeypatch.setattr(torch.cuda, name, lambda answer=answer: answer)
    settings = TrainConfig.model_validate({"trainer": {"precision": "32-true"}})
    assert _build_trainer(settings, []).strategy.root_device == torch.device("cuda", 1)


def test_a_checkpoint_decides_neither_the_resources_to_use_nor_where_to_write(tmp_path, drawn, untrained_checkpoint):
    cache = {"directory": str(tmp_path / "cache"), "ram_budget": 10**15, "dtype": "uint8", "verify": 9}
    values = {"converted_path": str(tmp_path / "converted"), "unreadable_wait_seconds": 1e9, "cache_config": cache}
    checkpoint = _checkpoint_with(
        tmp_path,
        untrained_checkpoint,
        dataset_base_path=str(drawn),
        datasets={"val_dataset": _split(drawn, **values)},
        dataloader={"batch_size": 65_536, "eval_batch_size": 65_536, "num_workers": 1024, "worker_timeout": 0},
        trainer={"compile": True, "cuda_graphs": True, "devices": 64},
        postprocess={"num_workers": 10**4, "max_pending": 10**9, "box_thresh": 0.25, "unclip_offset": 1.3},
        logger={"num_pictures": 10**6},
        pipeline={"image_size": 320, "num_threads": 10**4, "prefetch_queue_depth": 10**4, "mean": [1, 2, 3]},
    )
    settings, _ = restore(EvaluateConfig(checkpoint=checkpoint, device="cpu"))
    default, found = TrainConfig(), settings.datasets.val_dataset.config
    assert settings.dataloader.eval_batch_size <= 4
    assert settings.dataloader.num_workers == default.dataloader.num_workers
    assert (settings.trainer.compile, settings.trainer.cuda_graphs, settings.trainer.devices) == (False, False, "auto")
    assert settings.postprocess == default.postprocess.model_copy(update={"box_thresh": 0.25, "unclip_offset": 1.3})
    assert settings.logger == default.logger
    assert (settings.pipeline.image_size, settings.pipeline.mean) == (320, (1, 2, 3))
    assert (settings.pipeline.num_threads, settings.pipeline.prefetch_queue_depth) == (0, 2)
    assert (found.image_path, found.converted_path) == (f"{drawn}/images/val", None)
    assert found.unreadable_wait_seconds == 60
    assert found.cache_config == default.datasets.val_dataset.config.cache_config.model_copy(update={"dtype": "uint8"})


def test_evaluate_reads_no_checkpoint_that_lightning_left_for_slurm(tmp_path, drawn, untrained_checkpoint, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLURM_NTASKS", "1")
    (tmp_path / "hpc_ckpt_1.ckpt").write_text("no checkpoint")
    checkpoint = _checkpoint_with(tmp_path, untrained_checkpoint, datasets={"val_dataset": _split(drawn)})
    assert evaluate(EvaluateConfig(checkpoint=checkpoint, split="val"), tmp_path / "run")["images"] == 8


def test_evaluating_a_split_that_is_missing_names_those_there_are(tmp_path, drawn, untrained_checkpoint):
    given = [f"checkpoint={untrained_checkpoint}", "data=upstage", f"dataset_base_path={drawn}"]
    with pytest.raises(InputError, match=r"split=test: .* has no such split; it has val, train: add split=val"):
        evaluate(compose_config(EvaluateConfig, "evaluate", given), tmp_path / "run")


@pytest.mark.parametrize("error", [None, 0.0, 0.02])
def test_the_margin_is_explained_only_if_a_score_has_one(caplog, error):
    scores = dict.fromkeys(("hmean", "precision", "recall", "hmean_iou0.7"), 0.5)
    own = scores | {"hmean_error": None, "hmean_iou0.7_error": error, "images": 3}
    whole = scores | {"hmean_error": None, "hmean_iou0.7_error": None, "images": 3, "cleval": {"hmean": 0.4}}
    with caplog.at_level(logging.INFO):
        _say_scores(whole | {"sets": {"receipts": own}})
    explained = [line for line in caplog.messages if line.startswith("± is twice")]
    assert len(explained) == (1 if error else 0)
    assert len(caplog.messages) == 2 + len(explained)
