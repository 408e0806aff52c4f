"""The arguments of Lightning's WandbLogger, the id by which a resumed run continues there, and pictures there."""

import inspect
import logging

import pytest
from lightning.pytorch.loggers import WandbLogger
from PIL import Image

from ocr.config import LoggerConfig, WandbConfig
from ocr.errors import InputError
from ocr.training.boards import WANDB_ID_NAME, show_pictures, wandb_arguments
from ocr.training.trainer import build_loggers


def test_entity_tags_and_project_reach_the_logger(tmp_path):
    config = WandbConfig(entity="team", project="receipts", tags=("a", "b"), id="run1", offline=True)
    arguments = wandb_arguments(config, tmp_path, "exp", 0)
    assert arguments == {
        "name": "exp", "project": "receipts", "save_dir": tmp_path, "id": "run1", "resume": "allow", "offline": True,
        "entity": "team", "tags": ["a", "b"],
    }  # fmt: skip
    known = inspect.signature(WandbLogger.__init__).parameters
    assert {"name", "project", "save_dir", "id", "offline", "kwargs"} <= known.keys()  # the others go to wandb.init


def test_a_run_that_resumes_in_its_folder_continues_its_run(tmp_path):
    config = WandbConfig()
    first = wandb_arguments(config, tmp_path, "exp", 0)["id"]
    (tmp_path / WANDB_ID_NAME).write_text(f"{first}\n")
    assert wandb_arguments(config, tmp_path, "exp", 40)["id"] == first
    assert wandb_arguments(config, tmp_path, "exp", 0)["id"] != first, "a new run in an old folder"
    assert wandb_arguments(config, tmp_path / "other", "exp", 40)["id"] != first


@pytest.fixture
def wandb(tmp_path, monkeypatch):
    """The package, without a key and without what another test has set up."""
    package = pytest.importorskip("wandb", reason="needs the extra wandb")
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    yield package
    package.teardown()


def test_a_run_on_wandb_without_a_key_is_refused_with_what_to_do(wandb, tmp_path):
    config = LoggerConfig(tensorboard=False, csv=False, wandb=WandbConfig(enabled=True))
    with pytest.raises(
        InputError, match=r"logger\.wandb\.enabled=true: No API key .*wandb login.* logger\.wandb\.offline=true"
    ):
        build_loggers(config, tmp_path, "exp")


def test_pictures_of_several_sizes_reach_wandb_without_a_complaint(wandb, tmp_path, caplog, capsys):
    config = LoggerConfig(tensorboard=False, csv=False, wandb=WandbConfig(enabled=True, offline=True, id="run1"))
    (logger,) = build_loggers(config, tmp_path, "exp")
    assert isinstance(logger, WandbLogger)
    assert "WARNING" not in capsys.readouterr().err
    pictures = [Image.new("RGB", size) for size in ((30, 20), (20, 30))]
    show_pictures([logger], "val/worst", pictures, ["a.jpg", "b.jpg"], step=3)
    (other,) = build_loggers(
        config.model_copy(update={"wandb": WandbConfig(enabled=True, offline=True)}), tmp_path, "exp"
    )
    assert other.version != "run1", "a multirun has a run for each of its jobs"
    kept = sorted(path.name for path in tmp_path.glob("wandb/offline-run-*-run1/files/media/images/val/*.png"))
    assert [name.split("_")[:2] for name in kept] == [["worst", "1"], ["worst", "2"]]
    other.experiment.finish()
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
