"""Optimizer and learning-rate schedule."""

import math
from typing import Literal

import torch
from pydantic import Field
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from dali_pipelines.config import Section


class OptimizerConfig(Section):
    name: Literal["adamw", "sgd"] = "adamw"
    lr: float = Field(default=1e-3, gt=0)
    """Peak learning rate."""
    weight_decay: float = Field(default=1e-4, ge=0)
    """Of convolution weights; biases and norms have none."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """sgd only."""
    schedule: Literal["cosine", "poly", "constant"] = "cosine"
    """Shape of the decay after the warm-up; poly is the DB paper's."""
    warmup_fraction: float = Field(default=0.1, ge=0, lt=1)
    """Share of all steps in which the rate rises linearly."""
    poly_power: float = Field(default=0.9, gt=0)
    """poly only: (1 - progress) ** poly_power."""


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """The optimizer over all trainable parameters, in two groups: with and without weight decay."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if config.name == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum)
    return torch.optim.AdamW(groups, lr=config.lr)


def learning_rate_factor(step: int, num_steps: int, config: OptimizerConfig) -> float:
    """The share of the peak rate at optimizer step `step` of `num_steps`."""
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
    """The schedule, stepped once an optimizer step."""
    return LambdaLR(optimizer, lambda step: learning_rate_factor(step, num_steps, config))
