"""Checkpoints with their configuration: the file alone is enough to rebuild the network and its preprocessing."""

import pickle
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from ocr.config import TrainConfig
from ocr.errors import InputError
from ocr.models.dbnet import DBNet, build_dbnet

CONFIG_KEY = "dali_dbnet_config"
MODEL_PREFIX = "model."


def load_checkpoint(path: str | Path) -> tuple[TrainConfig, DBNet]:
    """Returns the configuration a checkpoint was trained with and its network, on the CPU, in evaluation mode.

    Raises:
        FileNotFoundError: no such file.
        InputError: not a checkpoint of this trainer, or one that this version cannot read.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"checkpoint={path}: no such file; a run writes checkpoints/best.ckpt and checkpoints/last.ckpt"
        )
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise InputError(
            f"checkpoint={path}: not a readable checkpoint: {' '.join(str(error).split())[:200]}"
        ) from error
    if CONFIG_KEY not in checkpoint:
        raise InputError(f"checkpoint={path}: it has no configuration; expected a file written by scripts/train.py")
    try:
        config = TrainConfig.model_validate(checkpoint[CONFIG_KEY])
    except ValidationError as error:
        raise InputError(f"checkpoint={path}: this version cannot read its configuration: {error}") from error
    # The checkpoint holds all weights, so pretrained ones need not be loaded first.
    untrained = config.model.model_copy(update={"backbone": config.model.backbone.model_copy(update={"weights": None})})
    model = build_dbnet(untrained, config.targets.map_stride)
    weights = {
        key.removeprefix(MODEL_PREFIX): value
        for key, value in checkpoint["state_dict"].items()
        if key.startswith(MODEL_PREFIX)
    }
    model.load_state_dict(weights)
    return config, model.eval()
