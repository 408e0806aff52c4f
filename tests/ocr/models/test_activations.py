import copy

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from ocr.models.activations import avoid_copies
from ocr.models.config import BackboneConfig, ModelConfig
from ocr.models.dbnet import build_dbnet

ACTIVATIONS = [nn.ReLU6, nn.Hardswish, nn.SiLU]


class Copies(TorchDispatchMode):
    """Counts the tensors that are cloned."""

    def __init__(self) -> None:
        super().__init__()
        self.num_clones = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.num_clones += func is torch.ops.aten.clone.default
        return func(*args, **(kwargs or {}))


def trained(network: nn.Module, images: torch.Tensor) -> tuple[list[torch.Tensor], int]:
    """Returns output and gradients, and the number of copies in the forward pass."""
    with Copies() as copies:
        output = network(images)
    return [output, *torch.autograd.grad(output.square().sum(), list(network.parameters()))], copies.num_clones


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_training_gives_the_same_without_a_copy(activation):
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(3, 8, 3), activation(inplace=True), nn.Conv2d(8, 2, 1))
    ours = copy.deepcopy(plain)
    avoid_copies(ours)
    images = 4 * torch.randn(2, 3, 16, 16)
    (expected, before), (found, after) = trained(plain, images), trained(ours, images)
    assert (before, after) == (1, 0)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_inference_is_in_place(activation):
    network = nn.Sequential(activation(inplace=True))
    avoid_copies(network)
    images = 4 * torch.randn(2, 3, 16, 16)
    expected = activation()(images)
    with torch.inference_mode():
        found = network(images)
    assert found.data_ptr() == images.data_ptr()
    assert torch.equal(found, expected)


def test_an_activation_that_is_not_in_place_stays_as_it_is():
    network = nn.Sequential(nn.ReLU6(), nn.ReLU(inplace=True))
    avoid_copies(network)
    assert [type(layer) for layer in network] == [nn.ReLU6, nn.ReLU]


@pytest.mark.parametrize(
    ("name", "activation"),
    [("mobilenetv2_100", nn.ReLU6), ("mobilenetv3_small_050", nn.Hardswish), ("efficientnet_b0", nn.SiLU)],
)
def test_backbones_have_no_activation_left_that_copies(name, activation):
    backbone = build_dbnet(ModelConfig(backbone=BackboneConfig(name=name, weights=None)), map_stride=4).backbone
    found = [layer for layer in backbone.modules() if isinstance(layer, activation)]
    assert found
    assert all(type(layer) is not activation for layer in found if layer.inplace)
