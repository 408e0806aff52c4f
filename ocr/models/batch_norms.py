"""Batch norms in training: which ones keep the statistics of the loaded weights, and how fast the others follow the batches."""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ocr.models.dbnet import DBNet


def freeze_statistics(model: DBNet, which: str) -> None:
    """Makes batch norms normalise by their running statistics in training too, in place. Their scales and biases are still trained.

    Args:
        which: batch, which changes nothing, frozen_backbone or frozen (`model.batch_norm`).
    """
    if which == "batch":
        return
    model.frozen += _batch_norms(model.backbone if which == "frozen_backbone" else model)
    model.train(model.training)


def set_momentum(model: nn.Module, momentum: float) -> None:
    """Sets the share that a batch has in the running statistics of all batch norms, in place."""
    for norm in _batch_norms(model):
        norm.momentum = momentum


def _batch_norms(module: nn.Module) -> list[_BatchNorm]:
    return [layer for layer in module.modules() if isinstance(layer, _BatchNorm)]
