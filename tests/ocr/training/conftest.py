"""Whole runs on the drawn data set, so small that an epoch takes about a second."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ocr.config import TrainConfig
from tests.composing import quickly_composed

TINY_RUN = (
    "data=upstage",
    "device=cpu",
    "pipeline.image_size=96",
    "pipeline.augmentation.crop_size=96",
    "dataloader.batch_size=2",
    "dataloader.eval_batch_size=4",
    "dataloader.num_workers=0",
    "model.backbone.name=test_resnet",  # made for tests: steps and checkpoints of a few MB
    "model.backbone.weights=null",
    "model.fpn_channels=16",
    "trainer.max_epochs=2",
    "trainer.precision=32-true",
    "logger.tensorboard=false",
    "logger.num_pictures=0",
)


@pytest.fixture(scope="session")
def tiny_run(drawn: Path) -> Callable[..., TrainConfig]:
    """Composes the configuration of a tiny run, as scripts/train.py does, with more overrides."""

    def compose(*overrides: str) -> TrainConfig:
        return quickly_composed(TrainConfig, "train", [*TINY_RUN, f"dataset_base_path={drawn}", *overrides])

    return compose


@pytest.fixture
def copied_set(drawn: Path, tmp_path: Path) -> Path:
    """A copy of the drawn data set, which a test may change."""
    return Path(shutil.copytree(drawn, tmp_path / "data"))
