"""Builds the backbone: any timm model with features at four strides, with weights from timm, from a file, or random."""

import logging
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import torch
from torch import nn

from ocr.errors import InputError
from ocr.models.config import BackboneConfig

log = logging.getLogger(__name__)

STRIDES = (4, 8, 16, 32)
PROBE_SECONDS = 2.0


def build_backbone(config: BackboneConfig) -> tuple[nn.Module, list[int]]:
    """Returns the backbone and its numbers of channels at strides 4, 8, 16, 32.

    The backbone maps (B, 3, H, W) to a list of (B, C, H / stride, W / stride), finest first.

    Raises:
        InputError: timm has no such model, the model lacks a stride, or the weights belong to another model.
        FileNotFoundError: the weight file does not exist.
    """
    backbone: Any = _create(config.name, pretrained=False)
    if config.weights == "pretrained":
        backbone = _create_pretrained(config.name) or backbone
    elif config.weights is not None:
        _load_file(backbone, Path(config.weights), config.name)
    return backbone, backbone.feature_info.channels()


def _create(name: str, *, pretrained: bool) -> nn.Module:
    import timm  # takes as long to import as torch

    if name not in timm.list_models():
        close = ", ".join(timm.list_models(f"*{name}*")[:8]) or "see timm.list_models()"
        raise InputError(f"model.backbone.name={name}: timm {timm.__version__} has no such model; similar: {close}")
    reductions = timm.create_model(name, features_only=True, pretrained=False).feature_info.reduction()
    missing = [stride for stride in STRIDES if stride not in reductions]
    if missing:
        raise InputError(
            f"model.backbone.name={name}: has features at strides {reductions}; expected {list(STRIDES)} among them. "
            "Choose another timm model, e.g. resnet18"
        )
    indices = tuple(reductions.index(stride) for stride in STRIDES)
    return timm.create_model(name, features_only=True, out_indices=indices, pretrained=pretrained)


def _create_pretrained(name: str) -> nn.Module | None:
    """Returns the backbone with timm's weights, or None if they are not available.

    If the hub does not answer, it is switched off first: its client would retry for minutes.
    """
    from huggingface_hub import constants

    was_offline, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, not _hub_answers(constants.ENDPOINT)
    try:
        return _create(name, pretrained=True)
    # The hub's errors derive from OSError; timm raises RuntimeError for a model without published weights.
    except (OSError, RuntimeError) as error:
        log.warning(
            "%s starts from random weights, because timm's weights can be neither downloaded nor found in the local cache. "
            "Training will take longer. model.backbone.weights=FILE loads a file; model.backbone.weights=null silences this "
            "warning.",
            name,
        )
        log.debug("timm's weights: %s", error)
        return None
    finally:
        constants.HF_HUB_OFFLINE = was_offline


def _hub_answers(endpoint: str) -> bool:
    address = urlsplit(endpoint)
    if address.scheme in getproxies():
        return True  # the proxy reaches it, not this process
    try:
        socket.create_connection((address.hostname or "", address.port or 443), PROBE_SECONDS).close()
    except OSError:
        return False
    return True


def _load_file(backbone: nn.Module, path: Path, name: str) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"model.backbone.weights={path}: no such file; expected the weights of {name}")
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        state = load_file(path)
    else:
        state = torch.load(path, map_location="cpu", weights_only=True)
        state = state.get("state_dict", state)
    wanted = backbone.state_dict()
    usable = {key: value for key, value in state.items() if key in wanted and value.shape == wanted[key].shape}
    missing = [key for key in wanted if key not in usable and not key.endswith("num_batches_tracked")]
    if missing:
        raise InputError(
            f"model.backbone.weights={path}: {len(missing)} of {len(wanted)} tensors of {name} are missing or have another shape, "
            f"first {missing[0]}; does this file belong to {name}?"
        )
    backbone.load_state_dict(usable, strict=False)
    log.info("Backbone %s: loaded %d tensors from %s", name, len(usable), path)
