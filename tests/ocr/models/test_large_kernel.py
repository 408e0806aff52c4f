import copy

import pytest
import torch
from torch import nn

from ocr.models.large_kernel import LargeKernelConv


def trained(channels: int = 6, kernel_size: int = 7) -> LargeKernelConv:
    """Returns a module whose batch norms have statistics, scales and biases of their own."""
    torch.manual_seed(0)
    module = LargeKernelConv(channels, kernel_size).double()
    for norm in (layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)):
        nn.init.uniform_(norm.weight, 0.5, 2.0)
        nn.init.normal_(norm.bias)
    for _ in range(3):
        module(2 + 3 * torch.randn(4, channels, 12, 9, dtype=torch.float64))
    return module


@pytest.mark.parametrize("kernel_size", [5, 7, 13])
def test_evaluation_and_the_merged_convolution_equal_the_two_branches(kernel_size):
    module = trained(kernel_size=kernel_size).eval()
    features = torch.randn(2, 6, 10, 15, dtype=torch.float64)
    branches = module.large(features) + module.small(features)
    torch.testing.assert_close(module(features), branches, rtol=1e-12, atol=1e-12)
    merged = module.merged().double()
    assert merged.weight.shape == (6, 1, kernel_size, kernel_size)
    torch.testing.assert_close(merged(features), branches, rtol=1e-6, atol=1e-6)


def test_merging_changes_nothing_and_shares_nothing():
    module = trained().eval()
    before = copy.deepcopy(module.state_dict())
    with torch.no_grad():
        module.merged().weight.zero_()
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_training_uses_the_statistics_of_the_batch_and_trains_both_branches():
    module = trained()
    features = torch.randn(2, 6, 10, 15, dtype=torch.float64)
    output = module(features)
    torch.testing.assert_close(output, module.large(features) + module.small(features))
    output.square().sum().backward()
    assert all(parameter.grad.any() for parameter in module.parameters())


def test_a_channels_last_module_under_autocast_gives_the_same_in_evaluation():
    module = trained().float().eval()
    features = torch.randn(2, 6, 10, 15)
    expected = module(features)
    module = module.to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        output = module(features.contiguous(memory_format=torch.channels_last))
    assert output.dtype == torch.bfloat16
    assert output.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(output.float(), expected, rtol=0.05, atol=0.05 * expected.abs().max().item())
