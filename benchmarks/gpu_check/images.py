"""What several steps share: drawn images, data sets of them, one trained checkpoint."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.gpu_check.settings import CheckSettings
from dali_pipelines.config import PipelineConfig
from ocr.command_line import compose_config, prepare_hydra
from ocr.config import TrainConfig
from ocr.datasets.base import ValidatedOCRDataset
from ocr.datasets.plan import SamplePlanner
from ocr.datasets.schemas import DatasetConfig
from ocr.device import resolve_device
from ocr.synthetic import SyntheticConfig, draw_data_set
from ocr.training.fit import train


def device_of(settings: CheckSettings) -> torch.device:
    return resolve_device("cpu" if settings.cpu else "gpu")


def drawn(settings: CheckSettings) -> Path:
    """Root of the drawn set that most steps use; the one of `make demo` on a GPU."""
    num_train, num_val = (12, 4) if settings.short else (24, 8) if settings.cpu else (96, 32)
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


def learnable(settings: CheckSettings) -> Path:
    """Root of the set that runs train on: the drawn one; on a CPU one so easy that seconds are enough to find its text."""
    if not settings.cpu:
        return drawn(settings)
    root = Path(settings.output) / "data" / "bars"
    for number, (split, count) in enumerate((("train", 16), ("val", 8))):
        if not (root / "jsons" / f"{split}.json").is_file():
            _draw_bars(root, split, count, np.random.default_rng(number))
    return root


def _draw_bars(root: Path, split: str, count: int, rng: np.random.Generator) -> None:
    """Dark bars on light paper, each a word."""
    (root / "images" / split).mkdir(parents=True, exist_ok=True)
    (root / "jsons").mkdir(exist_ok=True)
    images: dict[str, Any] = {}
    for number in range(count):
        picture = rng.integers(200, 256, (256, 256, 3), dtype=np.uint8)
        words = {}
        for line, top in enumerate(range(16, 220, 48)):
            left, width, height = (int(value) for value in rng.integers((8, 100, 24), (60, 180, 34)))
            picture[top : top + height, left : left + width] //= 4
            corners = [[left, top], [left + width, top], [left + width, top + height], [left, top + height]]
            words[f"{line:04d}"] = {"points": corners}
        name = f"bars_{number}.jpg"
        Image.fromarray(picture).save(root / "images" / split / name, quality=90)
        images[name] = {"img_w": 256, "img_h": 256, "words": words}
    (root / "jsons" / f"{split}.json").write_text(json.dumps({"images": images}))


def training_config(settings: CheckSettings, *overrides: str) -> TrainConfig:
    """What scripts/train.py would get for `learnable`: the recipe of data=synthetic, smaller on a CPU."""
    prepare_hydra()
    given = [
        "draw_synthetic=false",
        f"dataset_base_path={learnable(settings)}",
        f"device={'cpu' if settings.cpu else 'gpu'}",
        "logger.num_pictures=0",
        "model.backbone.weights=null",
    ]
    if settings.cpu:
        given += [
            "pipeline.image_size=128",
            "pipeline.augmentation.crop_size=96",
            "pipeline.augmentation.rotation_degrees=0",
            "pipeline.augmentation.scale_min=0.9",
            "pipeline.augmentation.scale_max=1.1",
            "model.fpn_channels=32",
            "optimizer.lr=4.0e-3",
            "trainer.precision=32-true",
            "trainer.max_epochs=8",
            "dataloader.batch_size=2",
            "postprocess.box_thresh=0.4",
        ]
    return compose_config(TrainConfig, "train", [*given, *overrides])


def run_folder(settings: CheckSettings, name: str) -> Path:
    """Folder of a training run."""
    return Path(settings.output) / "runs" / name


def trained_checkpoint(settings: CheckSettings) -> Path:
    """Of a run on `learnable`; trained by whichever step asks first."""
    folder = run_folder(settings, "checkpoint")
    checkpoint = folder / "checkpoints" / "last.ckpt"
    if not (folder / "finished").is_file():
        num_epochs = 8 if settings.cpu else 12
        train(
            training_config(
                settings, f"trainer.max_epochs={num_epochs}", f"trainer.check_val_every_n_epoch={num_epochs}"
            ),
            folder,
        )
        (folder / "finished").touch()
    return checkpoint
