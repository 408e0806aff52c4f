"""Feature pyramid network: four backbone levels into one map at stride 4 (DBNet, arXiv 1911.08947, figure 3).

`AdaptiveScaleFusion` weighs the levels by attention before they are joined (DBNet++, arXiv 2202.10304, section 3.3).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv_bn_relu(in_channels: int, out_channels: int, kernel_size: int) -> nn.Sequential:
    """A same-size convolution with batch norm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


class FPN(nn.Module):
    """Top-down sums of the levels, each smoothed to channels / 4, joined at stride 4.

    Args:
        in_channels: of the backbone's levels at strides 4, 8, 16, 32.
        channels: of the result; divisible by 4.
        adaptive_fusion: DBNet++'s attention over the levels.
    """

    def __init__(self, in_channels: list[int], channels: int, adaptive_fusion: bool) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(conv_bn_relu(count, channels, 1) for count in in_channels)
        self.smooth = nn.ModuleList(conv_bn_relu(channels, channels // 4, 3) for _ in in_channels)
        self.fusion = AdaptiveScaleFusion(channels, len(in_channels)) if adaptive_fusion else None

    def forward(self, features: list[Tensor]) -> Tensor:
        """(B, channels, H / 4, W / 4) from the four levels, finest first."""
        levels = [lateral(feature) for lateral, feature in zip(self.lateral, features, strict=True)]
        for i in range(len(levels) - 2, -1, -1):
            levels[i] = levels[i] + F.interpolate(levels[i + 1], size=levels[i].shape[-2:], mode="nearest")
        size = levels[0].shape[-2:]
        smoothed = [
            F.interpolate(smooth(level), size=size, mode="nearest")
            for smooth, level in zip(self.smooth, levels, strict=True)
        ]
        joined = torch.cat(smoothed, dim=1)
        return joined if self.fusion is None else self.fusion(joined)


class AdaptiveScaleFusion(nn.Module):
    """Weighs each level at each place by an attention over levels computed from all of them."""

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
        """The same shape as `joined`, (B, channels, H, W), whose channels are the levels one after the other."""
        reduced = self.reduce(joined)
        weights = self.weigh(self.spatial(reduced.mean(dim=1, keepdim=True)) + reduced)
        return (joined.unflatten(1, (self.num_levels, -1)) * weights.unsqueeze(2)).flatten(1, 2)
