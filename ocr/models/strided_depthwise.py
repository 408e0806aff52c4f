"""Strided depthwise convolutions whose gradient is fast on a CPU.

oneDNN, PyTorch's library for convolutions on CPUs, computes the gradient of their input by a slow reference implementation. That
gradient is also a convolution with stride 1, of the output's gradient with zeros between its values, by the mirrored kernel
(V. Dumoulin and F. Visin, arXiv 1603.07285, section 4.6), for which oneDNN has a fast implementation.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class StridedDepthwiseConv2d(nn.Conv2d):
    """A depthwise convolution with a stride; differs from nn.Conv2d in the speed of its gradient on a CPU only."""

    def forward(self, input: Tensor) -> Tensor:
        needs_gradient = input.requires_grad and torch.is_grad_enabled()
        if input.device.type != "cpu" or not needs_gradient or torch.compiler.is_compiling():
            return super().forward(input)
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else input.dtype
        bias = None if self.bias is None else self.bias.to(dtype)
        output: Tensor = _StridedDepthwise.apply(
            input.to(dtype), self.weight.to(dtype), bias, self.stride, self.padding
        )
        return output


class _StridedDepthwise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, int], padding: tuple[int, int]
    ) -> Tensor:
        ctx.save_for_backward(input, weight)
        ctx.stride, ctx.padding, ctx.has_bias = stride, padding, bias is not None
        return F.conv2d(input, weight, bias, stride, padding, groups=len(weight))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None, None]:
        (gradient,) = gradients
        input, weight = ctx.saved_tensors
        groups = len(weight)
        _, of_weight, of_bias = torch.ops.aten.convolution_backward(
            gradient,
            input,
            weight,
            [groups] if ctx.has_bias else None,
            ctx.stride,
            ctx.padding,
            (1, 1),
            False,
            (0, 0),
            groups,
            (False, True, ctx.has_bias),
        )
        return _gradient_of_input(gradient, input, weight, ctx.stride, ctx.padding), of_weight, of_bias, None, None


def _gradient_of_input(
    gradient: Tensor, input: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]
) -> Tensor:
    kernel = weight.shape[-2:]
    size = [length + 2 * pad - k + 1 for length, pad, k in zip(input.shape[-2:], padding, kernel, strict=True)]
    shape = (*gradient.shape[:2], *size)
    spread = torch.empty(shape, dtype=gradient.dtype, memory_format=torch.channels_last).zero_()
    spread[:, :, :: stride[0], :: stride[1]] = gradient
    opposite = [k - 1 - pad for k, pad in zip(kernel, padding, strict=True)]
    return F.conv2d(spread, weight.flip(2, 3), None, 1, opposite, groups=len(weight))


def use_fast_gradients(network: nn.Module) -> None:
    """Turns the strided depthwise convolutions of a network into `StridedDepthwiseConv2d`, in place."""
    for module in network.modules():
        if type(module) is nn.Conv2d and _is_eligible(module):
            module.__class__ = StridedDepthwiseConv2d


def _is_eligible(conv: nn.Conv2d) -> bool:
    return (
        conv.groups == conv.in_channels == conv.out_channels > 1
        and max(conv.stride) > 1
        and conv.dilation == (1, 1)
        and conv.padding_mode == "zeros"
        and not isinstance(conv.padding, str)
        and all(pad < k for pad, k in zip(conv.padding, conv.kernel_size, strict=True))
    )
