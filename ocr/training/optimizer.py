"""Optimizer and learning-rate schedule."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from ocr.config import OptimizerConfig
from ocr.models.stages import NUM_STAGES, stages_of


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Returns the optimizer of all trainable parameters, in groups: with and without weight decay, alternately.

    Without `layer_decay` there are two groups. With it each depth of the network has two, the stem's first; `lr_scale` of a group
    is the share of the learning rate that it has, as timm names it.
    """
    groups: list[dict[str, Any]] = [
        group
        for scale, parameters in _by_depth(model, config.layer_decay)
        for group in (
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay} | scale,
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0} | scale,
        )
    ]
    for group in groups:
        group["lr"] = config.lr * group.get("lr_scale", 1.0)
    if config.name == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum)
    return torch.optim.AdamW(groups, lr=config.lr)


def _by_depth(model: nn.Module, layer_decay: float | None) -> Iterator[tuple[dict[str, Any], list[nn.Parameter]]]:
    """Yields the trainable parameters of each depth, and the `lr_scale` of their groups; all at once without `layer_decay`."""
    trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if layer_decay is None:
        yield {}, list(trainable.values())
        return
    stages = stages_of(model.get_submodule("backbone"))
    top = NUM_STAGES + 1  # feature pyramid and head
    depths = {name: stages.get(name.removeprefix("backbone."), top) for name in trainable}
    for depth in sorted(set(depths.values())):
        parameters = [parameter for name, parameter in trainable.items() if depths[name] == depth]
        yield {"lr_scale": layer_decay ** (top - depth)}, parameters


def learning_rate_factor(step: int, num_steps: int, config: OptimizerConfig) -> float:
    """Returns the learning rate at optimizer step `step` of `num_steps`, as a share of its peak."""
    num_warmup = round(config.warmup_fraction * num_steps)
    if step < num_warmup:
        return (step + 1) / num_warmup
    progress = min(1.0, (step - num_warmup) / max(1, num_steps - num_warmup))
    if config.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    if config.schedule == "poly":
        return (1 - progress) ** config.poly_power
    return 1.0


def build_schedule(optimizer: torch.optim.Optimizer, num_steps: int, config: OptimizerConfig) -> LambdaLR:
    """Returns the learning-rate schedule, to be stepped after each optimizer step."""
    return LambdaLR(optimizer, lambda step: learning_rate_factor(step, num_steps, config))
