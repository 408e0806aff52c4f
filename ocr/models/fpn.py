"""The feature pyramid network: fuses four backbone levels into one feature map at stride 4 (DBNet, arXiv 1911.08947, figure 3).

`AdaptiveScaleFusion` weights the concatenated levels by attention (DBNet++, arXiv 2202.10304, section 3.3).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ocr.models.large_kernel import LargeKernelConv


def conv_bn_relu(in_channels: int, out_channels: int, kernel_size: int) -> nn.Sequential:
    """Returns a convolution with batch norm and ReLU that keeps height and width."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


class FPN(nn.Module):
    """Adds the levels top-down, smooths each to channels / 4, and concatenates them at stride 4.

    Args:
        in_channels: number of channels of the backbone's levels at strides 4, 8, 16, 32.
        channels: number of channels of the output; divisible by 4.
        kernel_size: side of the smoothing kernels; odd. Above 3 they are depthwise, and a 1x1 convolution follows.
        adaptive_fusion: weight the levels by DBNet++'s attention.
    """

    def __init__(self, in_channels: list[int], channels: int, kernel_size: int, adaptive_fusion: bool) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(conv_bn_relu(count, channels, 1) for count in in_channels)
        self.smooth = nn.ModuleList(_smoothing(channels, kernel_size) for _ in in_channels)
        self.fusion = AdaptiveScaleFusion(channels, len(in_channels)) if adaptive_fusion else None

    def forward(self, features: list[Tensor]) -> Tensor:
        """Returns (B, channels, H / 4, W / 4) from the backbone's four levels, finest first."""
        return self.fused(self.levels(features))

    def levels(self, features: list[Tensor]) -> list[Tensor]:
        """Returns the levels of the pyramid, each (B, channels, H / stride, W / stride), to which the coarser ones are added."""
        levels = [lateral(feature) for lateral, feature in zip(self.lateral, features, strict=True)]
        for i in range(len(levels) - 2, -1, -1):
            levels[i] = levels[i] + F.interpolate(levels[i + 1], size=levels[i].shape[-2:], mode="nearest")
        return levels

    def fused(self, levels: list[Tensor]) -> Tensor:
        """Returns (B, channels, H / 4, W / 4) from the levels of the pyramid."""
        size = levels[0].shape[-2:]
        smoothed = [
            F.interpolate(smooth(level), size=size, mode="nearest")
            for smooth, level in zip(self.smooth, levels, strict=True)
        ]
        joined = torch.cat(smoothed, dim=1)
        return joined if self.fusion is None else self.fusion(joined)


def _smoothing(channels: int, kernel_size: int) -> nn.Sequential:
    """Returns layers from the number of channels of the pyramid to a quarter of it."""
    if kernel_size == 3:
        return conv_bn_relu(channels, channels // 4, 3)
    pointwise = conv_bn_relu(channels, channels // 4, 1)
    return nn.Sequential(LargeKernelConv(channels, kernel_size), nn.ReLU(inplace=True), *pointwise)


class AdaptiveScaleFusion(nn.Module):
    """Multiplies each level at each pixel by an attention weight computed from all levels."""

    def __init__(self, channels: int, num_levels: int) -> None:
        super().__init__()
        self.num_levels = num_levels
        self.reduce = nn.Conv2d(channels, channels // 4, 3, padding=1)
        self.spatial = nn.Sequential(
            nn.Conv2d(1, 1, 3, padding=1, bias=False),
            nn.ReLU(inplace=True),
            nn.Conv2d(1, 1, 1, bias=False),
            nn.Sigmoid(),
        )
        self.weigh = nn.Sequential(nn.Conv2d(channels // 4, num_levels, 1, bias=False), nn.Sigmoid())

    def forward(self, joined: Tensor) -> Tensor:
        """Returns the weighted levels in the shape of `joined`, (B, channels, H, W), the concatenated levels."""
        reduced = self.reduce(joined)
        weights = self.weigh(self.spatial(reduced.mean(dim=1, keepdim=True)) + reduced)
        return (joined.unflatten(1, (self.num_levels, -1)) * weights.unsqueeze(2)).flatten(1, 2)
