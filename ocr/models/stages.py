"""The depth of each layer: which stage of the backbone it belongs to, and which layers are frozen."""

import copy
import itertools

import torch
from torch import nn

from ocr.models.dbnet import DBNet

NUM_STAGES = 4
"""Stages of a backbone, which end with the features at strides 4, 8, 16 and 32."""
_PROBED_SIZE = 64


def stages_of(backbone: nn.Module) -> dict[str, int]:
    """Returns the stage of each parameter of a backbone, 1 (the stem and all up to stride 4) to 4.

    A parameter belongs to the first stage whose features depend on it. That is read from the graph of a forward pass, since timm's
    models name and nest their layers in many ways. The backbone itself is not changed.
    """
    probe = copy.deepcopy(backbone).cpu().float().eval().requires_grad_(True)
    names, parameters = zip(*probe.named_parameters(), strict=True)
    stages: dict[str, int] = {}
    with torch.enable_grad():
        features = probe(torch.zeros(1, 3, _PROBED_SIZE, _PROBED_SIZE))
        for stage, feature in enumerate(features, start=1):
            gradients = torch.autograd.grad(feature.sum(), parameters, retain_graph=True, allow_unused=True)
            for name, gradient in zip(names, gradients, strict=True):
                if gradient is not None:
                    stages.setdefault(name, stage)
    return {name: stages.get(name, NUM_STAGES) for name in names}


def freeze(model: DBNet, what: str) -> None:
    """Freezes a part of the network in place: its parameters get no gradient, and its layers stay in evaluation mode.

    Batch norms of that part keep their statistics, and it drops nothing at random.

    Args:
        what: none, backbone, or stages:N (`model.freeze`).
    """
    if what == "none":
        return
    last = NUM_STAGES if what == "backbone" else int(what.removeprefix("stages:"))
    frozen = {name for name, stage in stages_of(model.backbone).items() if stage <= last}
    for name, parameter in model.backbone.named_parameters():
        if name in frozen:
            parameter.requires_grad_(False)
    model.frozen = _frozen_parts(model.backbone)
    model.train(model.training)


def _frozen_parts(module: nn.Module) -> list[nn.Module]:
    """Returns the largest parts of a module that have parameters, none of which gets a gradient."""
    parameters = list(module.parameters())
    if not any(parameter.requires_grad for parameter in parameters):
        return [module] if parameters else []
    return list(itertools.chain.from_iterable(_frozen_parts(child) for child in module.children()))
