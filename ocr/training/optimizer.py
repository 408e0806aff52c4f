"""Optimizer and learning-rate schedule."""

import math

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from ocr.config import OptimizerConfig


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Returns the optimizer of all trainable parameters, in two groups: with and without weight decay."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if config.name == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum)
    return torch.optim.AdamW(groups, lr=config.lr)


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
