"""Checkpoints and files of weights with their configuration: the file alone rebuilds the network and its preprocessing."""

import hashlib
import logging
import pickle
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from pydantic import ValidationError
from torch import Tensor

from ocr.config import TrainConfig, described_problems
from ocr.errors import InputError
from ocr.given_files import SHIPPED, WEIGHTS_EXTENSION, weights_path
from ocr.models.dbnet import AUXILIARY_PREFIX, DBNet, build_dbnet
from ocr.weights_file import is_weights_file, read_weights_file

log = logging.getLogger(__name__)

CONFIG_KEY = "dali_dbnet_config"
PRECISION_KEY = "dali_dbnet_precision"
"""Key of the precision that a run was trained in: {"device_type", "precision"}, the latter by Lightning's name."""
MODEL_PREFIX = "model."
_ZIP_START = b"PK\3\4"
_GRAPHS = (".onnx", ".pt2")
"""Endings of exported files that hold a graph."""


@dataclass(frozen=True)
class Weights:
    """The weights of a network, on the CPU: those that one would predict with."""

    path: Path
    """The file that holds them."""
    config: TrainConfig | None
    """Configuration of the run that trained them; None: a .safetensors file without one."""
    state: dict[str, Tensor]
    """Tensors by the names of `DBNet.state_dict()`, all finite; of any type of number."""


def load_checkpoint(path: str | Path) -> tuple[TrainConfig, DBNet]:
    """Returns the configuration a network was trained with and the network, on the CPU in float32, in evaluation mode.

    Args:
        path: a checkpoint, a .safetensors file of scripts/export.py, or the name of shipped weights.

    Raises:
        FileNotFoundError: no such file.
        InputError: not a file of this trainer, one that this version cannot read, or one with weights that are NaN.
    """
    weights = read_weights(path)
    if weights.path.parent == SHIPPED:
        log.info(
            "checkpoint=%s: weights that come with this package; %s says what they know", path, SHIPPED / "README.md"
        )
    if weights.config is None:
        raise InputError(
            f"checkpoint={weights.path}: it has tensors but no configuration; expected a file written by scripts/export.py "
            "format=safetensors"
        )
    config = weights.config
    model = build_dbnet(without_backbone_weights(config).model, config.targets.map_stride)
    _load_all(model, weights)
    return config, model.eval()


def read_weights(path: str | Path, key: str = "checkpoint") -> Weights:
    """Returns the weights of a checkpoint, of a .safetensors file, or of the shipped file of that name.

    Args:
        key: the setting that names the file, for messages.

    Raises:
        FileNotFoundError: no such file.
        InputError: not a file of weights, one that this version cannot read, or one with weights that are NaN.
    """
    path = weights_path(path, key)
    if path.suffix.lower() in _GRAPHS:
        raise InputError(
            f"{key}={path}: found an exported graph, whose weights cannot be taken; give the .ckpt or {WEIGHTS_EXTENSION} file it "
            "was exported from"
        )
    if is_weights_file(path):
        text, state = read_weights_file(path, key)
        config = _config_of_text(text, path, key)
    else:
        checkpoint = read_checkpoint(path, key)
        config, found = saved_config(checkpoint, path, key), checkpoint.get("state_dict")
        if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
            raise InputError(f"{key}={path}: it has no weights; expected a file written by scripts/train.py")
        state = {name: value for name, value in found.items() if name.startswith(MODEL_PREFIX)}
    state = {name.removeprefix(MODEL_PREFIX): value for name, value in state.items() if isinstance(value, Tensor)}
    state = {name: value for name, value in state.items() if not name.startswith(AUXILIARY_PREFIX)}  # training only
    refuse_broken(state, path, key)
    return Weights(path, config, state)


def average_weights(model: DBNet, paths: Sequence[str | Path], key: str) -> None:
    """Averages a network's weights with those of files, in place; statistics of batch norms too.

    Source: Model soups, arXiv 2203.05482, section 2: networks that were fine-tuned from the same weights.

    Args:
        key: the setting that names the files, for messages.

    Raises:
        FileNotFoundError: no such file.
        InputError: not a file of weights, or of another network.
    """
    all_weights = [read_weights(path, key) for path in paths]
    own = model.state_dict()
    for weights in all_weights:
        _refuse_unfit(weights, own, key, "expected a file of the same network as checkpoint=...")
    states = [own, *(weights.state for weights in all_weights)]
    model.load_state_dict(
        {
            name: torch.stack([state[name].float() for state in states]).mean(0)
            if tensor.is_floating_point()
            else tensor
            for name, tensor in own.items()
        }
    )


def file_sha256(path: Path) -> str:
    """Returns the SHA-256 of a file in hexadecimal digits, reading a part at a time."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(1 << 20):  # hashlib.file_digest came with Python 3.11
            digest.update(part)
    return digest.hexdigest()


def without_backbone_weights(config: TrainConfig) -> TrainConfig:
    """Returns the configuration of a network whose weights are loaded as a whole, so that pretrained ones need not be."""
    backbone = config.model.backbone.model_copy(update={"weights": None})
    return config.model_copy(update={"model": config.model.model_copy(update={"backbone": backbone})})


def text_of(config: TrainConfig) -> dict[str, str]:
    """Returns the text that makes a .safetensors file sufficient by itself: the configuration, without places of this machine."""
    plain = TrainConfig()
    names = ("exp_name", "dataset_base_path", "draw_synthetic", "datasets", "logger", "resume", "init_from")
    config = without_backbone_weights(config.model_copy(update={name: getattr(plain, name) for name in names}))
    return {CONFIG_KEY: config.model_dump_json()}


def saved_config(checkpoint: dict[str, Any], path: str | Path, key: str = "checkpoint") -> TrainConfig:
    """Returns the configuration in the content of a checkpoint.

    Raises:
        InputError: this version cannot read it.
    """
    try:
        return TrainConfig.model_validate(checkpoint[CONFIG_KEY])
    except ValidationError as error:
        raise _unreadable_config(error, path, key) from error


def read_checkpoint(path: str | Path, key: str = "checkpoint") -> dict[str, Any]:
    """Returns the content of a checkpoint of this trainer, on the CPU. It runs no code of the file.

    Args:
        key: the setting that names the file, for messages.

    Raises:
        FileNotFoundError: no such file.
        InputError: not a checkpoint of this trainer.
    """
    path = weights_path(path, key)
    with path.open("rb") as file:
        try:
            _check_archive(file)
            file.seek(0)
            checkpoint = torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:  # the archive is whole: its checksums match
            raise InputError(
                f"{key}={path}: found Python objects of another program, which are not loaded because they could run any code; "
                "expected a file written by scripts/train.py"
            ) from error
        except Exception as error:  # torch and pickle raise nearly every type for damaged files
            # torch's own text advises to load the file without protection.
            raise InputError(
                f"{key}={path}: not a readable checkpoint: found {_found(path)} ({type(error).__name__}); expected a whole file "
                "written by scripts/train.py; copy it again, or take the other one of best.ckpt and last.ckpt"
            ) from error
    if not isinstance(checkpoint, dict) or CONFIG_KEY not in checkpoint:
        raise InputError(
            f"{key}={path}: it has no configuration, so another program wrote it; expected a file written by scripts/train.py"
        )
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


def _config_of_text(text: dict[str, str], path: Path, key: str) -> TrainConfig | None:
    saved = text.get(CONFIG_KEY)
    if saved is None:
        return None
    try:
        return TrainConfig.model_validate_json(saved)
    except ValidationError as error:
        raise _unreadable_config(error, path, key) from error


def _unreadable_config(error: ValidationError, path: str | Path, key: str) -> InputError:
    problems = "; ".join(described_problems(error)[:3])
    return InputError(
        f"{key}={path}: this version cannot read its configuration: {problems}. Another version wrote the file: use that one, or "
        "train or export again with this one"
    )


def _load_all(model: DBNet, weights: Weights) -> None:
    """Loads weights into the network, which must have exactly these."""
    reason = "its weights and its configuration do not belong together, or another version wrote it"
    _refuse_unfit(weights, model.state_dict(), "checkpoint", reason)
    model.load_state_dict(weights.state)


def _refuse_unfit(weights: Weights, wanted: dict[str, Tensor], key: str, reason: str) -> None:
    """Raises InputError unless a file has exactly the tensors of a network."""
    state = weights.state
    unfit = [
        name
        for name in wanted | state
        if name not in wanted or name not in state or state[name].shape != wanted[name].shape
    ]
    if unfit:
        raise InputError(
            f"{key}={weights.path}: {len(unfit)} of {len(wanted | state)} weights are missing, superfluous or of another shape, "
            f"first {unfit[0]}; {reason}"
        )


def refuse_broken(state: Mapping[str, Any], path: Path, key: str) -> None:
    """Raises InputError if a tensor holds NaN or infinity."""
    broken = [name for name, value in state.items() if isinstance(value, Tensor) and not torch.isfinite(value).all()]
    if broken:
        raise InputError(
            f"{key}={path}: {len(broken)} of {len(state)} weights hold NaN or infinity, first {broken[0]}: its training "
            "went wrong; take an earlier checkpoint, or train again with a lower optimizer.lr"
        )
