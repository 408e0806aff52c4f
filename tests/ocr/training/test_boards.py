"""The arguments of Lightning's WandbLogger, the id by which a resumed run continues there, and pictures there."""

import inspect

import pytest
from lightning.pytorch.loggers import WandbLogger
from PIL import Image

from ocr.config import WandbConfig
from ocr.training.boards import WANDB_ID_NAME, show_pictures, wandb_arguments


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


def test_pictures_of_several_sizes_reach_wandb_without_a_complaint(tmp_path, caplog):
    pytest.importorskip("wandb", reason="needs the extra wandb")
    logger = WandbLogger(**wandb_arguments(WandbConfig(offline=True, id="run1"), tmp_path, "exp", 0))
    pictures = [Image.new("RGB", size) for size in ((30, 20), (20, 30))]
    show_pictures([logger], "val/worst", pictures, ["a.jpg", "b.jpg"], step=3)
    logger.experiment.finish()
    kept = sorted(path.name for path in tmp_path.glob("wandb/offline-run-*-run1/files/media/images/val/*.png"))
    assert [name.split("_")[:2] for name in kept] == [["worst", "1"], ["worst", "2"]]
    assert not caplog.records
