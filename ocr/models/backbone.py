"""Builds the backbone: any timm model with features at four strides, with weights from timm, from a file, or random."""

import logging
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import torch
from torch import Tensor, nn

from ocr.errors import InputError
from ocr.models.config import BackboneConfig

log = logging.getLogger(__name__)

STRIDES = (4, 8, 16, 32)
_PROBED_SIZES = (64, 96, 320)
_ADVICE = "choose another timm model, e.g. resnet18"
PROBE_SECONDS = 2.0
_COUNTER = "num_batches_tracked"
_NETWORK_PREFIXES = ("model.backbone.", "backbone.")
"""Beginnings of a backbone's tensor names in a checkpoint of this trainer and in its .safetensors files."""


def build_backbone(config: BackboneConfig) -> tuple[nn.Module, list[int]]:
    """Returns the backbone and its numbers of channels at strides 4, 8, 16, 32.

    The backbone maps (B, 3, H, W) to a list of (B, C, H / stride, W / stride), finest first.

    Raises:
        InputError: timm has no such model, the model lacks a stride or takes one image size only, or the weights belong to
            another model.
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

    _check_name(name)
    options = _size_options(name)
    try:
        probe: Any = timm.create_model(name, features_only=True, pretrained=False, **options)
    except Exception as error:  # models that give no features raise several types
        raise InputError(
            f"model.backbone.name={name}: timm cannot take features from it: {error}; {_ADVICE}"
        ) from error
    reductions = probe.feature_info.reduction()
    missing = [stride for stride in STRIDES if stride not in reductions]
    if missing:
        raise InputError(
            f"model.backbone.name={name}: has features at strides {reductions}; expected {list(STRIDES)} among them; {_ADVICE}"
        )
    indices = tuple(reductions.index(stride) for stride in STRIDES)
    backbone: Any = timm.create_model(name, features_only=True, out_indices=indices, pretrained=pretrained, **options)
    if getattr(backbone, "output_fmt", None) == "NHWC":
        backbone.register_forward_hook(_channels_first)
    if _has_fixed_size(name):
        _check_sizes(backbone, name)
    return backbone


def _check_name(name: str) -> None:
    """Raises InputError unless timm has this model, and these weights of it if the name has a tag: resnet18.a1_in1k."""
    import timm

    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        close = ", ".join(timm.list_models(f"*{architecture}*")[:8]) or "see timm.list_models()"
        raise InputError(f"model.backbone.name={name}: timm {timm.__version__} has no such model; similar: {close}")
    tagged = timm.list_models(f"{architecture}.*", pretrained=True, include_tags=True)
    if tag and name not in tagged:
        raise InputError(f"model.backbone.name={name}: timm has no weights {tag!r} for it; it has {', '.join(tagged)}")


def _has_fixed_size(name: str) -> bool:
    """Returns whether timm says that the model takes images of one size only, unless told otherwise."""
    import timm

    config = timm.get_pretrained_cfg(name, allow_unregistered=True)
    return bool(config is not None and config.fixed_input_size)


def _size_options(name: str) -> dict[str, Any]:
    """Returns the arguments with which the model takes images of any size."""
    import timm

    if not _has_fixed_size(name):
        return {}
    options = {"strict_img_size": False}  # of Swin transformers
    try:
        timm.create_model(name, features_only=True, pretrained=False, **options)
    except TypeError:
        return {}
    return options


def _channels_first(backbone: nn.Module, inputs: Any, features_BHWC: list[Tensor]) -> list[Tensor]:
    return [feature.permute(0, 3, 1, 2) for feature in features_BHWC]


def _check_sizes(backbone: nn.Module, name: str) -> None:
    """Raises InputError unless the model takes images of several sizes."""
    backbone.eval()
    try:
        with torch.no_grad():
            for size in _PROBED_SIZES:
                features = backbone(torch.zeros(1, 3, size, size))
                if [feature.shape[2] * stride for feature, stride in zip(features, STRIDES, strict=True)] != [size] * 4:
                    raise ValueError(f"features of other sizes for images of {size} pixels")
    except Exception as error:  # nearly any type
        raise InputError(
            f"model.backbone.name={name}: it takes images of one size only ({error}), but training, validation and prediction "
            f"differ in size; {_ADVICE}"
        ) from error
    finally:
        backbone.train()


def _create_pretrained(name: str) -> nn.Module | None:
    """Returns the backbone with timm's weights, or None if they are not available.

    If the hub does not answer, it is switched off first: its client would retry for minutes. HF_HUB_OFFLINE=1 is respected.
    """
    from huggingface_hub import constants

    was_offline = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = was_offline or not _hub_answers(constants.ENDPOINT)
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
    state = _of_backbone(_read_weights(path))
    wanted = backbone.state_dict()
    usable = _by_name(state, wanted) or _by_order(state, wanted)
    missing = [key for key in wanted if key not in usable and not key.endswith(_COUNTER)]
    if missing:
        raise InputError(
            f"model.backbone.weights={path}: {len(missing)} of {len(wanted)} tensors of {name} are missing or have another shape, "
            f"first {missing[0]}; does this file belong to {name}?"
        )
    broken = [key for key, value in usable.items() if not torch.isfinite(value).all()]
    if broken:
        raise InputError(
            f"model.backbone.weights={path}: {len(broken)} of {len(usable)} tensors hold NaN or infinity, first {broken[0]}; take "
            "another file"
        )
    backbone.load_state_dict(usable, strict=False)
    matched = "" if usable.keys() <= state.keys() else ", whose names differ, by their order"
    log.info("Backbone %s: loaded %d tensors from %s%s", name, len(usable), path, matched)


def _by_name(state: Mapping[str, Any], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the tensors that have a name and shape of the backbone."""
    return {
        name: value
        for name, value in state.items()
        if name in wanted and isinstance(value, Tensor) and value.shape == wanted[name].shape
    }


def _by_order(state: Mapping[str, Any], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the tensors under the backbone's names, where a library names the same layers otherwise: torchvision's MobileNetV2.

    The file's first tensors must be of the shapes and kinds (weight, running_mean, ...) of the backbone's, in its order; otherwise
    nothing is returned.
    """
    names = [name for name in wanted if not name.endswith(_COUNTER)]
    given = [(name, value) for name, value in state.items() if not name.endswith(_COUNTER)][: len(names)]
    agree = len(given) == len(names) and all(
        isinstance(value, Tensor) and value.shape == wanted[name].shape and _kind(other) == _kind(name)
        for name, (other, value) in zip(names, given, strict=True)
    )
    return {name: value for name, (_, value) in zip(names, given, strict=True)} if agree else {}


def _kind(name: str) -> str:
    return name.rpartition(".")[2]


def _of_backbone(state: dict[str, Any]) -> dict[str, Any]:
    """Returns the tensors of the backbone, if they are part of a whole network of this trainer; else all, as they are."""
    for prefix in _NETWORK_PREFIXES:
        if any(key.startswith(prefix) for key in state):
            return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    return state


def _read_weights(path: Path) -> dict[str, Any]:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
        state = state.get("state_dict", state)
        return dict(state)
    except Exception as error:  # both raise nearly any type; torch's text advises to load the file without protection
        raise InputError(
            f"model.backbone.weights={path}: not readable as weights ({type(error).__name__}); expected a whole .pth, .pt or "
            ".safetensors file of tensors by name; copy it again"
        ) from error
