"""Batch norms in training: which ones keep the statistics of the loaded weights, and how fast the others follow the batches."""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ocr.models.dbnet import DBNet


def freeze_statistics(model: DBNet, which: str) -> None:
    """Makes batch norms normalise by their running statistics in training too, in place. Their scales and biases are still trained.

    Args:
        which: batch, which changes nothing, frozen_backbone or frozen (`model.batch_norm`).
    """
    model.frozen += _frozen_norms(model, which).values()
    model.train(model.training)


def without_statistics(model: DBNet, which: str) -> list[str]:
    """Returns the names of the frozen batch norms that have the statistics of random weights, mean 0 and variance 1."""
    return [
        name
        for name, norm in _frozen_norms(model, which).items()
        if norm.running_mean is not None
        and norm.running_var is not None
        and not norm.running_mean.any()
        and bool((norm.running_var == 1).all())
    ]


def set_momentum(model: nn.Module, momentum: float) -> None:
    """Sets the share that a batch has in the running statistics of all batch norms, in place."""
    for norm in _batch_norms(model).values():
        norm.momentum = momentum


def _frozen_norms(model: DBNet, which: str) -> dict[str, _BatchNorm]:
    if which == "batch":
        return {}
    prefix = "backbone." if which == "frozen_backbone" else ""
    return {name: norm for name, norm in _batch_norms(model).items() if name.startswith(prefix)}


def _batch_norms(module: nn.Module) -> dict[str, _BatchNorm]:
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, _BatchNorm)}
