"""The arguments of Lightning's WandbLogger, and the id by which a resumed run continues there."""

import inspect

from lightning.pytorch.loggers import WandbLogger

from ocr.config import WandbConfig
from ocr.training.boards import WANDB_ID_NAME, wandb_arguments


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
