"""A depthwise convolution by a large kernel, to which training adds a small one (RepLKNet, arXiv 2203.06717, sections 3 and 4)."""

import torch.nn.functional as F
from torch import Tensor, nn

SMALL_KERNEL = 3


class LargeKernelConv(nn.Module):
    """Sums a large and a small depthwise convolution, each with a batch norm; in evaluation they are one convolution.

    A large kernel alone is hard to train. With the running statistics of the batch norms, the sum of both is a convolution by one
    kernel: the large one with the small one added at its centre.

    Args:
        channels: number of channels of input and output.
        kernel_size: side of the large kernel; odd, above 3.
    """

    def __init__(self, channels: int, kernel_size: int) -> None:
        super().__init__()
        self.large = _depthwise(channels, kernel_size)
        self.small = _depthwise(channels, SMALL_KERNEL)

    def forward(self, features: Tensor) -> Tensor:
        """Returns (B, C, H, W) of features (B, C, H, W)."""
        if self.training:
            return self.large(features) + self.small(features)
        kernel, bias = self._merged_weights()
        return F.conv2d(features, kernel, bias, padding=kernel.shape[-1] // 2, groups=len(kernel))

    def merged(self) -> nn.Conv2d:
        """Returns the convolution that equals this module in evaluation, with weights of its own."""
        kernel, bias = self._merged_weights()
        channels, size = len(kernel), kernel.shape[-1]
        conv = nn.Conv2d(channels, channels, size, padding=size // 2, groups=channels)
        conv.load_state_dict({"weight": kernel, "bias": bias})
        return conv

    def _merged_weights(self) -> tuple[Tensor, Tensor]:
        """Returns kernel (C, 1, K, K) and bias (C,)."""
        (large, large_bias), (small, small_bias) = (_with_folded_norm(*branch) for branch in (self.large, self.small))
        margin = (large.shape[-1] - small.shape[-1]) // 2
        return large + F.pad(small, [margin] * 4), large_bias + small_bias


def _depthwise(channels: int, kernel_size: int) -> nn.Sequential:
    conv = nn.Conv2d(channels, channels, kernel_size, padding=kernel_size // 2, groups=channels, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels))


def _with_folded_norm(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Returns kernel and bias of a convolution that equals both in evaluation. Gradients flow through them."""
    if norm.running_mean is None or norm.running_var is None:
        raise TypeError("a batch norm without running statistics")  # only for the type checker
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    return conv.weight * scale[:, None, None, None], norm.bias - norm.running_mean * scale
