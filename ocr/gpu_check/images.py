"""What several steps share: drawn images, data sets of them, one trained checkpoint."""

import logging
from pathlib import Path
from typing import Any

import torch

from dali_pipelines.config import PipelineConfig
from ocr.command_line import compose_config, prepare
from ocr.config import TrainConfig
from ocr.datasets.base import ValidatedOCRDataset
from ocr.datasets.plan import SamplePlanner
from ocr.datasets.schemas import DatasetConfig
from ocr.datasets.synthetic import SyntheticConfig, draw_data_set
from ocr.device import resolve_device
from ocr.gpu_check.settings import CheckSettings
from ocr.training.fit import train

log = logging.getLogger(__name__)


def device_of(settings: CheckSettings) -> torch.device:
    return resolve_device("cpu" if settings.cpu else "gpu")


def drawn(settings: CheckSettings) -> Path:
    """Root of the drawn set that most steps use; the one of `make demo` on a GPU."""
    num_train, num_val = (16, 4) if settings.short else (24, 8) if settings.cpu else (96, 32)
    root = Path(settings.output) / "data" / f"drawn_{num_train}_{num_val}"
    return draw_data_set(SyntheticConfig(num_train=num_train, num_val=num_val), root)


def given_or_drawn(settings: CheckSettings) -> Path:
    """The user's data set, or the drawn one."""
    return Path(settings.data) if settings.data is not None else drawn(settings)


def dataset_of(
    root: Path, split: str, pipeline: PipelineConfig, *, training: bool, **config: Any
) -> ValidatedOCRDataset:
    """A split of a set laid out for data=upstage; `config` goes to its DatasetConfig."""
    split_config = DatasetConfig(
        image_path=str(root / "images" / split), annotation_path=str(root / "jsons" / f"{split}.json"), **config
    )
    return ValidatedOCRDataset(split_config, SamplePlanner(pipeline, training=training, seed=0))


def training_config(settings: CheckSettings, *overrides: str) -> TrainConfig:
    """What scripts/train.py would get for the drawn set: the recipe of data=synthetic, smaller on a CPU."""
    prepare()
    root = drawn(settings)
    num_train, num_val = root.name.split("_")[1:]
    given = [
        f"dataset_base_path={root}",
        f"synthetic.num_train={num_train}",
        f"synthetic.num_val={num_val}",
        f"device={'cpu' if settings.cpu else 'gpu'}",
        "logger.num_pictures=0",
        "model.backbone.weights=null",
    ]
    if settings.cpu:
        given += [
            "pipeline.image_size=256",
            "pipeline.augmentation.crop_size=128",
            "model.fpn_channels=32",
            "trainer.precision=32-true",
            "trainer.max_epochs=2",
            "postprocess.bin_thresh=0.2",
            "postprocess.box_thresh=0.2",
            "dataloader.batch_size=4",
        ]
    return compose_config(TrainConfig, "train", [*given, *overrides])


def run_folder(settings: CheckSettings, name: str) -> Path:
    """Folder of a training run."""
    return Path(settings.output) / "runs" / name


def trained_checkpoint(settings: CheckSettings) -> Path:
    """Of a run on the drawn set; trained by whichever step asks first."""
    folder = run_folder(settings, "checkpoint")
    checkpoint = folder / "checkpoints" / "last.ckpt"
    if not (folder / "finished").is_file():
        overrides = ["trainer.max_epochs=12", "optimizer.lr=5.0e-3"] if settings.cpu else ["trainer.max_epochs=12"]
        train(training_config(settings, *overrides, "trainer.check_val_every_n_epoch=12"), folder)
        (folder / "finished").touch()
    return checkpoint
