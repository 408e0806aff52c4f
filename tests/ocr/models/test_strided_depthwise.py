import copy

import pytest
import timm
import torch
from torch import nn

from ocr.models.strided_depthwise import StridedDepthwiseConv2d, use_fast_gradients


def fast(conv: nn.Conv2d) -> nn.Conv2d:
    network = nn.Sequential(copy.deepcopy(conv))
    use_fast_gradients(network)
    assert type(network[0]) is StridedDepthwiseConv2d
    return network[0]


def gradients(conv: nn.Conv2d, images: torch.Tensor, dtype: torch.dtype) -> list[torch.Tensor]:
    images = images.clone().requires_grad_()
    with torch.autocast("cpu", dtype, enabled=dtype == torch.bfloat16):
        output = conv(images)
    weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).reshape(output.shape)
    return [output, *torch.autograd.grad((output * weights).sum(), (images, *conv.parameters()))]


@pytest.mark.parametrize("size", [(8, 8), (9, 12), (17, 7)])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [(3, 2, 1), (5, 2, 2), (3, 2, 0), (2, 2, 0), (4, (4, 2), 1), ((3, 5), (1, 3), (1, 2))],
)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.bfloat16, 2e-2)])
def test_output_and_gradients_equal_those_of_pytorch(kernel, stride, padding, bias, size, dtype, tolerance):
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 6, kernel, stride, padding, groups=6, bias=bias).to(
        dtype if dtype == torch.float64 else torch.float32
    )
    images = torch.randn(2, 6, *size, dtype=conv.weight.dtype).contiguous(memory_format=torch.channels_last)
    expected = gradients(conv, images, dtype)
    for ours, theirs in zip(gradients(fast(conv), images, dtype), expected, strict=True):
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance * theirs.abs().max().item())


@pytest.mark.parametrize("name", ["mobilenetv2_100", "efficientnet_lite0"])
def test_a_mobile_network_keeps_its_tensors_and_gradients(name):
    torch.manual_seed(0)
    plain = timm.create_model(name, features_only=True).double().eval()
    ours = copy.deepcopy(plain)
    use_fast_gradients(ours)
    strided = [
        module
        for module in plain.modules()
        if isinstance(module, nn.Conv2d) and module.groups > 1 and module.stride != (1, 1)
    ]
    assert sum(type(module) is StridedDepthwiseConv2d for module in ours.modules()) == len(strided) == 4
    assert list(ours.state_dict()) == list(plain.state_dict())
    images = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    for network in (plain, ours):
        sum(feature.square().mean() for feature in network(images)).backward()
    for (key, parameter), other in zip(plain.named_parameters(), ours.parameters(), strict=True):
        torch.testing.assert_close(other.grad, parameter.grad, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(6, 6, 3, 1, 1, groups=6),
        nn.Conv2d(6, 6, 3, 2, 1),
        nn.Conv2d(6, 12, 3, 2, 1, groups=6),
        nn.Conv2d(6, 6, 3, 2, 1, groups=6, dilation=2),
        nn.Conv2d(6, 6, 3, 2, 1, groups=6, padding_mode="reflect"),
        nn.Conv2d(6, 6, 3, 2, "valid", groups=6),
        nn.Conv2d(6, 6, 3, 2, 3, groups=6),
    ],
)
def test_other_convolutions_stay(conv):
    use_fast_gradients(conv)
    assert type(conv) is nn.Conv2d
