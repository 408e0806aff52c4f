"""Checkpoints with their configuration: the file alone is enough to rebuild the network and its preprocessing."""

import re
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch
from pydantic import ValidationError
from torch import Tensor

from ocr.config import TrainConfig, described_problems
from ocr.errors import InputError
from ocr.models.dbnet import DBNet, build_dbnet

CONFIG_KEY = "dali_dbnet_config"
PRECISION_KEY = "dali_dbnet_precision"
"""Key of the precision that a run was trained in: {"device_type", "precision"}, the latter by Lightning's name."""
MODEL_PREFIX = "model."
_ZIP_START = b"PK\3\4"


def load_checkpoint(path: str | Path) -> tuple[TrainConfig, DBNet]:
    """Returns the configuration a checkpoint was trained with and its network, on the CPU, in evaluation mode.

    Raises:
        FileNotFoundError: no such file.
        InputError: not a checkpoint of this trainer, one that this version cannot read, or one with weights that are NaN.
    """
    checkpoint = read_checkpoint(path)
    config = saved_config(checkpoint, path)
    # The checkpoint holds all weights, so pretrained ones need not be loaded first.
    untrained = config.model.model_copy(update={"backbone": config.model.backbone.model_copy(update={"weights": None})})
    model = build_dbnet(untrained, config.targets.map_stride)
    _load_weights(model, checkpoint.get("state_dict"), path)
    return config, model.eval()


def saved_config(checkpoint: dict[str, Any], path: str | Path, key: str = "checkpoint") -> TrainConfig:
    """Returns the configuration in the content of a checkpoint.

    Raises:
        InputError: this version cannot read it.
    """
    try:
        return TrainConfig.model_validate(checkpoint[CONFIG_KEY])
    except ValidationError as error:
        problems = "; ".join(described_problems(error)[:3])
        raise InputError(f"{key}={path}: this version cannot read its configuration: {problems}") from error


def read_checkpoint(path: str | Path, key: str = "checkpoint") -> dict[str, Any]:
    """Returns the content of a checkpoint of this trainer, on the CPU. It runs no code of the file.

    Args:
        key: the setting that names the file, for messages.

    Raises:
        FileNotFoundError: no such file.
        InputError: not a checkpoint of this trainer.
    """
    path = Path(path)
    if not path.is_file():
        found = "found a folder, expected a file" if path.is_dir() else "no such file"
        raise FileNotFoundError(f"{key}={path}: {found}; a run writes checkpoints/best.ckpt and checkpoints/last.ckpt")
    with path.open("rb") as file:
        try:
            _check_archive(file)
            file.seek(0)
            checkpoint = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # torch and pickle raise nearly every type for damaged files
            # torch's own text advises to load the file without protection.
            raise InputError(
                f"{key}={path}: not a readable checkpoint: found {_found(path)} ({type(error).__name__}); expected a whole file "
                "written by scripts/train.py; copy it again, or take the other one of best.ckpt and last.ckpt"
            ) from error
    if not isinstance(checkpoint, dict) or CONFIG_KEY not in checkpoint:
        raise InputError(f"{key}={path}: it has no configuration; expected a file written by scripts/train.py")
    return checkpoint


def _check_archive(file: BinaryIO) -> None:
    """Raises BadZipFile if a part of the file does not match its checksum. torch.load does not compare them."""
    with zipfile.ZipFile(file) as archive:
        if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
            raise zipfile.BadZipFile("compressed parts; torch.save writes none")
        damaged = archive.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(f"{damaged} does not match its checksum")


def _found(path: Path) -> str:
    """Returns a few words about a file that is no checkpoint."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(64)
    if not start:
        return "an empty file"
    if start.startswith(_ZIP_START):
        return f"a damaged or cut archive of {size:,} bytes"
    is_text = re.search(rb"[^\t\r\n -~]", start) is None
    return f"{'a text file' if is_text else 'another kind of file'} of {size:,} bytes"


def _load_weights(model: DBNet, state: Any, path: str | Path) -> None:
    """Loads the weights of a checkpoint into the network, which must have exactly these."""
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise InputError(f"checkpoint={path}: it has no weights; expected a file written by scripts/train.py")
    weights = {key.removeprefix(MODEL_PREFIX): value for key, value in state.items() if key.startswith(MODEL_PREFIX)}
    wanted = model.state_dict()
    unfit = [
        key
        for key in wanted | weights
        if key not in wanted or not isinstance(weights.get(key), Tensor) or weights[key].shape != wanted[key].shape
    ]
    if unfit:
        raise InputError(
            f"checkpoint={path}: {len(unfit)} of {len(wanted)} weights are missing, superfluous or of another shape, first "
            f"{unfit[0]}; its weights and its configuration do not belong together, or another version wrote it"
        )
    broken = [key for key, value in weights.items() if not torch.isfinite(value).all()]
    if broken:
        raise InputError(
            f"checkpoint={path}: {len(broken)} of {len(weights)} weights hold NaN or infinity, first {broken[0]}: its training "
            "went wrong; take an earlier checkpoint, or train again with a lower optimizer.lr"
        )
    model.load_state_dict(weights)
