"""Resuming means the same run: settings are taken from the checkpoint, and differences are refused by name."""

import csv
import json
import math
import re
import shutil
from pathlib import Path

import pytest
import torch

from ocr.errors import InputError
from ocr.training.fit import train
from ocr.training.optimizer import learning_rate_factor
from ocr.training.resume import resumption


@pytest.fixture(scope="module")
def finished(tiny_run, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    train(tiny_run(), folder)
    return folder


@pytest.fixture(scope="module")
def checkpoint(finished) -> Path:
    return finished / "checkpoints/last.ckpt"


@pytest.mark.parametrize(
    ("override", "found"),
    [
        ("dataloader.batch_size=5", "dataloader.batch_size: 2 in the checkpoint, 5 given"),
        ("optimizer.lr=0.5", "optimizer.lr: 0.001 in the checkpoint, 0.5 given"),
        ("targets.shrink_ratio=0.6", "targets.shrink_ratio: 0.4 in the checkpoint, 0.6 given"),
        ("pipeline.image_size=128", "pipeline.image_size: 96 in the checkpoint, 128 given"),
        ("seed=7", "seed: 42 in the checkpoint, 7 given"),
        ("trainer.ema_decay=0.5", "trainer.ema_decay: None in the checkpoint, 0.5 given"),
        ("model.batch_norm=frozen", "model.batch_norm: batch in the checkpoint, frozen given"),
        ("model.batch_norm_momentum=0.5", "model.batch_norm_momentum: None in the checkpoint, 0.5 given"),
        ("model.head_float32=false", "model.head_float32: True in the checkpoint, False given"),
    ],
)
def test_another_setting_is_refused_by_name_unless_resume_anyway(tiny_run, checkpoint, tmp_path, override, found):
    longer = [override, f"resume={checkpoint}", "trainer.max_epochs=3"]
    with pytest.raises(InputError, match="another run") as refused:
        resumption(tiny_run(*longer), None, tmp_path)
    assert f"  {found}\n" in str(refused.value)
    resumption(tiny_run(*longer, "resume_anyway=true"), None, tmp_path)


def test_settings_that_are_not_given_are_taken_from_the_checkpoint(tiny_run, checkpoint, tmp_path):
    other = tiny_run(f"resume={checkpoint}", "optimizer.lr=0.5", "trainer.max_epochs=7", "loss.thresh_weight=3")
    config = resumption(other, {"trainer.max_epochs", "resume"}, tmp_path).config
    assert config == tiny_run(f"resume={checkpoint}", "trainer.max_epochs=7")


def test_settings_of_speed_and_place_may_differ(tiny_run, checkpoint, tmp_path):
    free = ["trainer.max_epochs=3", "dataloader.num_workers=1", "pipeline.num_threads=1", "postprocess.num_workers=1"]
    resumption(tiny_run(*free, f"resume={checkpoint}"), None, tmp_path)


@pytest.mark.parametrize(
    ("override", "found"),
    [
        ("model.fpn_channels=32", "model.fpn_channels: 16 in the checkpoint, 32 given"),
        ("model.fpn_kernel_size=7", "model.fpn_kernel_size: 3 in the checkpoint, 7 given"),
        ("loss.auxiliary_weight=0.4", "loss.auxiliary_weight: 0.0 in the checkpoint, 0.4 given"),
    ],
)
def test_another_network_does_not_resume_in_any_case(tiny_run, checkpoint, tmp_path, override, found):
    with pytest.raises(InputError, match=re.escape(found)):
        resumption(tiny_run(override, "resume_anyway=true", f"resume={checkpoint}"), None, tmp_path)


def test_another_data_set_is_refused_also_behind_the_same_path(tiny_run, drawn, checkpoint, tmp_path):
    root = shutil.copytree(drawn, tmp_path / "data")
    config = tiny_run(f"dataset_base_path={root}", f"resume={checkpoint}", "trainer.max_epochs=3")
    annotations = json.loads((root / "jsons/val.json").read_text())
    first = next(image for image in annotations["images"].values() if image["words"])
    first["words"].popitem()
    (root / "jsons/val.json").write_text(json.dumps(annotations))
    with pytest.raises(InputError, match="val data: 8 images in the checkpoint, other images found"):
        train(config, tmp_path / "run")


def test_a_data_set_that_has_moved_is_the_same(tiny_run, drawn, checkpoint, tmp_path):
    root = shutil.copytree(drawn, tmp_path / "moved")
    config = tiny_run(f"dataset_base_path={root}", f"resume={checkpoint}", "trainer.max_epochs=3")
    assert len(train(config, tmp_path / "run")["epochs"]) == 3


def test_resume_anyway_uses_the_learning_rate_that_is_given(tiny_run, checkpoint, tmp_path):
    config = tiny_run(
        f"resume={checkpoint}", "optimizer.lr=0.5", "optimizer.schedule=constant", "resume_anyway=true",
        "trainer.max_epochs=3",
    )  # fmt: skip
    train(config, tmp_path)
    state = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)["optimizer_states"][0]
    assert [group["lr"] for group in state["param_groups"]] == [0.5, 0.5]


def test_another_number_of_epochs_is_said_to_change_the_learning_rate(tiny_run, checkpoint, tmp_path, caplog):
    config = tiny_run(f"resume={checkpoint}", "trainer.max_epochs=8")
    resumption(config, None, tmp_path)
    (message,) = caplog.messages
    now = config.optimizer.lr * learning_rate_factor(2, 8, config.optimizer)
    assert message.endswith(f"goes on as in a run of 8 epochs: {now:.3g} at epoch 3, not 0")
    caplog.clear()
    constant = ("trainer.max_epochs=8", "optimizer.schedule=constant", "resume_anyway=true")
    resumption(tiny_run(f"resume={checkpoint}", *constant), None, tmp_path)
    assert not any("goes on" in message for message in caplog.messages)


def test_a_finished_run_says_so_and_changes_no_file(tiny_run, finished, checkpoint, caplog):
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in finished.rglob("*") if path.is_file()}
    with caplog.at_level("INFO"):
        summary = train(tiny_run(f"resume={checkpoint}"), finished)
    after = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in finished.rglob("*") if path.is_file()}
    assert after == before
    assert "this run is finished: epochs trained 2" in caplog.messages[-1]
    assert summary["hmean"] == json.loads((finished / "summary.json").read_text())["hmean"]


@pytest.mark.parametrize("name", ["cut", "empty", "foreign", "text", "weights", "edited", "infinite", "no weights"])
def test_a_file_that_is_no_checkpoint_is_refused_in_one_line(tiny_run, checkpoint, tmp_path, name):
    path, whole = tmp_path / "bad.ckpt", checkpoint.read_bytes()
    contents = {"cut": whole[: len(whole) // 2], "empty": b"", "text": b"no checkpoint\n"}
    if name in contents:
        path.write_bytes(contents[name])
    else:
        state = torch.load(checkpoint, weights_only=True)
        states = {
            "foreign": {"weights": 1},
            "weights": state | {"optimizer_states": None, "loops": None},
            "no weights": {key: value for key, value in state.items() if key != "state_dict"},
            "infinite": state
            | {"state_dict": {name: tensor + math.inf for name, tensor in state["state_dict"].items()}},
            "edited": state | {"loops": {"fit_loop": {"epoch_progress": [1]}}},
        }
        torch.save(states[name], path)
    with pytest.raises(InputError, match=r"^resume=.*bad\.ckpt: [^\n]+$") as refused:
        train(tiny_run(f"resume={path}"), tmp_path / "run")
    assert "weights_only" not in str(refused.value)
    assert not (tmp_path / "run").exists()


def test_the_state_of_another_optimizer_is_refused_in_one_line(tiny_run, checkpoint, tmp_path):
    state = torch.load(checkpoint, weights_only=True)
    del state["optimizer_states"][0]["param_groups"][0]
    torch.save(state, tmp_path / "bad.ckpt")
    config = tiny_run(f"resume={tmp_path / 'bad.ckpt'}", "trainer.max_epochs=3")
    with pytest.raises(
        InputError, match=r"^resume=.*bad\.ckpt: found the state of an optimizer [^\n]+ in 1 groups; [^\n]+$"
    ):
        train(config, tmp_path / "run")


def test_auto_takes_the_newest_whole_checkpoint_of_the_folder(tiny_run, finished, tmp_path):
    assert resumption(tiny_run("resume=auto"), None, tmp_path).config.resume is None
    folder = shutil.copytree(finished / "checkpoints", tmp_path / "checkpoints")
    longer = tiny_run("resume=auto", "trainer.max_epochs=3")
    assert resumption(longer, None, tmp_path).config.resume == str(folder / "last.ckpt")
    (folder / "last.ckpt").write_bytes(b"")
    start = resumption(longer, None, tmp_path)
    assert start.config.resume == str(folder / "best.ckpt")
    assert start.first_step > 0


def test_metrics_go_on_in_the_folder_of_the_run(tiny_run, finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "run")
    train(tiny_run("resume=auto", "trainer.max_epochs=3", "trainer.log_every_n_steps=1"), folder)
    with (folder / "metrics.csv").open(newline="") as file:
        epochs = [row["epoch"] for row in csv.DictReader(file) if row["epoch"]]
    assert epochs == sorted(epochs)
    assert set(epochs) == {"0", "1", "2"}
