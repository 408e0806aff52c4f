"""The network that a run begins with: random or pretrained weights, those of `init_from`, and its frozen part."""

import logging
from collections.abc import Collection, Mapping
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from ocr.checkpoint import Weights, read_weights, without_backbone_weights
from ocr.config import TrainConfig, described_problems, flat_keys, nested
from ocr.errors import InputError
from ocr.models.batch_norms import freeze_statistics, set_momentum, without_statistics
from ocr.models.config import ModelConfig
from ocr.models.dbnet import DBNet, add_auxiliary_head, build_dbnet
from ocr.models.stages import freeze
from ocr.training.ranks import is_first_rank

log = logging.getLogger(__name__)

NETWORK = (
    "model.backbone.name",
    "model.fpn_channels",
    "model.fpn_kernel_size",
    "model.adaptive_fusion",
    "targets.map_stride",
)
"""Keys that decide which tensors a network has."""
TAKEN = (*NETWORK, "model.head_float32", "pipeline.mean", "pipeline.std")
"""Keys that a run with `init_from` takes from the file where they are not given."""
LEARNED = {
    "targets.shrink_ratio": "how far regions of text are shrunk; the network has to learn another value anew",
    "targets.min_side": "smaller text is a don't-care region",
    "targets.max_text_weight": "largest weight of small text in the loss",
    "targets.thresh_min": "threshold map away from text; the network has to learn another value anew",
    "targets.thresh_max": "threshold map on the borders of text; the network has to learn another value anew",
    "postprocess.unclip_offset": "pixels by which every box grows further; the file's suits the boxes of these weights",
    "pipeline.image_size": "longest side of an image in the network; at another, text has another height than in its training",
}
"""Keys that say what the weights have learned, or suit their boxes, and their meaning for somebody who begins with these weights. A
run may well have others, so they are only compared."""
_NUM_NAMED = 5
"""Number of tensors that a message names."""


def with_network_of_file(config: TrainConfig, given: Collection[str] | None) -> TrainConfig:
    """Returns the configuration with the network of `init_from`, where its settings are not given.

    Differences that remain are logged.

    Args:
        given: keys that the user set, written with dots; None: all.

    Raises:
        FileNotFoundError: no such file.
        InputError: not a file of weights, or its network contradicts a given setting.
    """
    if config.init_from is None:
        return config
    weights = read_weights(config.init_from, "init_from")
    if weights.config is None:
        return config
    saved = flat_keys(weights.config.model_dump(mode="json"))
    if given is not None:
        taken = {key: saved[key] for key in TAKEN if key not in given}
        try:
            config = TrainConfig.model_validate(nested(flat_keys(config.model_dump(mode="json")) | taken))
        except ValidationError as error:
            problems = "; ".join(described_problems(error))
            raise InputError(
                f"init_from={config.init_from}: the network of this file contradicts a given setting: {problems}; change that one"
            ) from error
    own = flat_keys(config.model_dump(mode="json"))
    start = f"init_from={config.init_from}: the weights"
    _say_different(logging.WARNING, own, saved, dict.fromkeys(NETWORK, ""), f"{start} are of another network")
    learned = {key: meaning for key, meaning in LEARNED.items() if key != "pipeline.image_size" or own[key] != "auto"}
    what = f"{start} were trained with other settings. This run keeps its own, which may suit your data better"
    _say_different(logging.INFO, own, saved, learned, what)
    return config


def initial_network(config: TrainConfig) -> DBNet:
    """Returns the network of a new run, on the CPU; of a resumed run one whose weights are still to be loaded.

    An auxiliary head is part of it, if the loss has a weight for one.

    Raises:
        FileNotFoundError: a file of weights does not exist.
        InputError: the backbone cannot be built, or not one tensor of `init_from` fits.
    """
    model, stride = config.model, config.targets.map_stride
    is_new = config.resume is None
    begins_with_backbone = is_new and config.init_from is None
    network = build_dbnet((config if begins_with_backbone else without_backbone_weights(config)).model, stride)
    not_loaded: Collection[str] = network.state_dict().keys()
    if is_new and config.init_from is not None:
        network, not_loaded = _loaded(network, read_weights(config.init_from, "init_from"), config)
    freeze(network, model.freeze)
    freeze_statistics(network, model.batch_norm)
    if is_new:
        _warn_of_random(network, not_loaded, model)
        _warn_of_missing_statistics(network, model.batch_norm)
    if config.loss.auxiliary_weight > 0:
        add_auxiliary_head(network, model, stride)  # its batch norms have no statistics that could be kept
    if model.batch_norm_momentum is not None:
        set_momentum(network, model.batch_norm_momentum)
    return network


def _loaded(network: DBNet, weights: Weights, config: TrainConfig) -> tuple[DBNet, Collection[str]]:
    """Returns the network with the weights that fit, and the names of the tensors that the file does not have.

    If the backbone is another one, its own weights come first.
    """
    unfit = _unfit(network, weights.state)
    rest = "random"
    if any(name.startswith("backbone.") for name in unfit) and config.model.backbone.weights is not None:
        network = build_dbnet(config.model, config.targets.map_stride)
        rest = f"random, or with model.backbone.weights={config.model.backbone.weights}"
    wanted = network.state_dict()
    fitting = {name: tensor for name, tensor in weights.state.items() if name in wanted and name not in unfit}
    if not any(tensor.is_floating_point() for tensor in fitting.values()):
        raise InputError(
            f"init_from={weights.path}: none of its {len(weights.state)} tensors fits this network of {len(wanted)}; expected a "
            f"checkpoint of this trainer, or its export with format=safetensors; {_named(unfit)}. The weights of a backbone alone "
            "are given with model.backbone.weights=FILE"
        )
    network.load_state_dict(fitting, strict=False)
    if is_first_rank():
        _say_loaded(weights, len(wanted), unfit, rest)
    return network, unfit.keys()


def _say_loaded(weights: Weights, num_wanted: int, unfit: Mapping[str, str], rest: str) -> None:
    if not unfit:
        log.info("init_from=%s: all %d tensors of the network are loaded", weights.path, num_wanted)
        return
    log.warning(
        "init_from=%s: %d of %d tensors fit; left at %s:\n%s",
        *(weights.path, num_wanted - len(unfit), num_wanted, rest, _by_part(unfit)),
    )


def _unfit(network: DBNet, state: Mapping[str, Tensor]) -> dict[str, str]:
    """Returns the tensors of the network that a file does not have in this shape, and what it has. Counters may be missing."""
    unfit = {}
    for name, tensor in network.state_dict().items():
        found = state.get(name)
        if found is None and not name.endswith("num_batches_tracked"):
            unfit[name] = "not in the file"
        elif found is not None and found.shape != tensor.shape:
            unfit[name] = f"{_shape(found)} in the file, {_shape(tensor)} here"
    return unfit


def _by_part(unfit: Mapping[str, str]) -> str:
    """Returns a line for each part of the network, such as fpn.lateral: the number of its unfit tensors, and the first one."""
    parts: dict[str, list[str]] = {}
    for name, what in unfit.items():
        parts.setdefault(".".join(name.split(".")[:2]), []).append(f"{name} ({what})")
    return "\n".join(
        f"  {part}: {len(names)} tensor{'s, first' if len(names) > 1 else ','} {names[0]}"
        for part, names in parts.items()
    )


def _named(unfit: Mapping[str, str]) -> str:
    named = ", ".join(f"{name} ({what})" for name, what in list(unfit.items())[:_NUM_NAMED])
    more = len(unfit) - _NUM_NAMED
    return f"{named} and {more} more" if more > 0 else named


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "one number"


def _say_different(
    level: int, own: Mapping[str, Any], saved: Mapping[str, Any], meanings: Mapping[str, str], what: str
) -> None:
    """Logs settings that differ from the file's, a line for each, and the words for the command line that take the file's.

    Args:
        meanings: what to say about each key; empty: nothing.
    """
    different = [key for key in meanings if own[key] != saved[key]]
    if different and is_first_rank():
        log.log(
            level,
            "%s:\n%s\nTo take the file's, add to the command:\n  %s",
            what,
            "\n".join(
                f"  {key}: {saved[key]} in the file, {own[key]} here{meanings[key] and f' ({meanings[key]})'}"
                for key in different
            ),
            " ".join(f"{key}={saved[key]}" for key in different),
        )


def _warn_of_random(network: DBNet, not_loaded: Collection[str], config: ModelConfig) -> None:
    """Warns of frozen weights that are random. `not_loaded` are the names of the tensors that `init_from` does not have."""
    frozen = {name for name, parameter in network.named_parameters() if not parameter.requires_grad}
    if config.backbone.weights is None and not frozen.isdisjoint(not_loaded) and is_first_rank():
        log.warning(
            "model.freeze=%s keeps random weights, which cannot learn; give init_from=FILE of the same backbone or "
            "model.backbone.weights=FILE",
            config.freeze,
        )


def _warn_of_missing_statistics(network: DBNet, which: str) -> None:
    """Warns of frozen statistics that no file had; `which` is model.batch_norm."""
    names = without_statistics(network, which)
    if names and is_first_rank():
        log.warning(
            "model.batch_norm=%s keeps statistics of random weights, mean 0 and variance 1, which normalise nothing, in %d batch "
            "norms, such as %s; give init_from=FILE of the same network, or model.batch_norm=batch",
            *(which, len(names), names[-1]),
        )
