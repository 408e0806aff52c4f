"""Activations that work in place only where no gradient is needed.

The gradient of ReLU6, hard-swish and SiLU is computed from their input. In place, PyTorch therefore copies the input in training
before it overwrites it; a result of its own costs one pass over memory less and no more memory. In inference it is the other way
round: in place nothing is allocated. ReLU needs its output only, and is best in place in both.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ReLU6(nn.ReLU6):
    """nn.ReLU6, in place without gradients only."""

    def forward(self, input: Tensor) -> Tensor:
        return F.relu6(input, inplace=not _needs_gradient(input))


class Hardswish(nn.Hardswish):
    """nn.Hardswish, in place without gradients only."""

    def forward(self, input: Tensor) -> Tensor:
        return F.hardswish(input, inplace=not _needs_gradient(input))


class SiLU(nn.SiLU):
    """nn.SiLU, in place without gradients only."""

    def forward(self, input: Tensor) -> Tensor:
        return F.silu(input, inplace=not _needs_gradient(input))


_BY_TYPE: dict[type[nn.Module], type[nn.Module]] = {nn.ReLU6: ReLU6, nn.Hardswish: Hardswish, nn.SiLU: SiLU}


def avoid_copies(network: nn.Module) -> None:
    """Turns the activations of a network that are in place into those of this file, in place."""
    for module in network.modules():
        ours = _BY_TYPE.get(type(module))
        if ours is not None and module.inplace:
            module.__class__ = ours


def _needs_gradient(input: Tensor) -> bool:
    return input.requires_grad and torch.is_grad_enabled()
