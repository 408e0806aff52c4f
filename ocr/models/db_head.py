"""The head of DBNet, which predicts the probability map and the threshold map, and the differentiable step function."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ocr.models.fpn import conv_bn_relu


class DBMaps(NamedTuple):
    """The network's output; each map is (B, H / map_stride, W / map_stride) float32."""

    prob_logits: Tensor
    """Logits of the shrunk text regions."""
    thresh_map: Tensor
    """The binarisation threshold at each pixel, 0 to 1."""

    @property
    def prob_map(self) -> Tensor:
        """Probability of the shrunk text regions, 0 to 1."""
        return torch.sigmoid(self.prob_logits)


class ProbMap(NamedTuple):
    """The output of a network that only predicts."""

    prob_map: Tensor
    """(B, H / map_stride, W / map_stride) float32, probability of the shrunk text regions, 0 to 1."""


class TrainingMaps(NamedTuple):
    """The output of a network with an auxiliary head, in training."""

    maps: DBMaps
    auxiliary: DBMaps
    """Maps of the auxiliary head, in the same size."""


def approximate_binary_map(maps: DBMaps, k: float) -> Tensor:
    """Returns 1 / (1 + exp(-k (P - T))), equation 2 of DBNet (arXiv 1911.08947)."""
    return torch.sigmoid(k * (maps.prob_map - maps.thresh_map))


class DBHead(nn.Module):
    """Predicts both maps, each with a branch of its own that upsamples the pyramid to 1 / map_stride of the input's resolution.

    Args:
        in_channels: number of channels of the pyramid.
        map_stride: 1, 2 or 4.
        float32: compute in float32 even under autocast, because float16 is numerically unsafe in a DB head.
    """

    def __init__(self, in_channels: int, map_stride: int, float32: bool) -> None:
        super().__init__()
        self.float32 = float32
        self.prob = _branch(in_channels, map_stride)
        self.thresh = _branch(in_channels, map_stride)

    def forward(self, pyramid: Tensor) -> DBMaps:
        """Returns the maps of a pyramid (B, C, H / 4, W / 4)."""
        if self.float32:
            with torch.autocast(pyramid.device.type, enabled=False):
                return self._maps(pyramid.float())
        return self._maps(pyramid)

    def prob_logits(self, pyramid: Tensor) -> Tensor:
        """Returns the first map of `forward` alone."""
        if self.float32:
            with torch.autocast(pyramid.device.type, enabled=False):
                return self._logits(pyramid.float())
        return self._logits(pyramid)

    def _maps(self, pyramid: Tensor) -> DBMaps:
        return DBMaps(self._logits(pyramid), torch.sigmoid(self.thresh(pyramid).squeeze(1).float()))

    def _logits(self, pyramid: Tensor) -> Tensor:
        logits: Tensor = self.prob(pyramid).squeeze(1).float()
        return logits


class AuxiliaryHead(nn.Module):
    """A second head that only training has: it must find the text in a coarser level of the pyramid, which teaches that level.

    Args:
        in_channels, map_stride, float32: as in `DBHead`.
    """

    def __init__(self, in_channels: int, map_stride: int, float32: bool) -> None:
        super().__init__()
        self.head = DBHead(in_channels, map_stride, float32)

    def forward(self, level: Tensor) -> DBMaps:
        """Returns the maps of a level (B, C, H / 8, W / 8), enlarged to 1 / map_stride of the input, so that its targets fit."""
        return DBMaps(*(F.interpolate(each.unsqueeze(1), scale_factor=2.0).squeeze(1) for each in self.head(level)))


def _branch(in_channels: int, map_stride: int) -> nn.Sequential:
    width = in_channels // 4
    layers: list[nn.Module] = [conv_bn_relu(in_channels, width, 3)]
    stride = 4
    while stride > 2 * map_stride:
        layers.append(nn.ConvTranspose2d(width, width, 2, stride=2))
        layers += [nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        stride //= 2
    last = nn.ConvTranspose2d(width, 1, 2, stride=2) if stride > map_stride else nn.Conv2d(width, 1, 1)
    return nn.Sequential(*layers, last)
