"""The DBNet loss over shrink map, threshold map and binary map (arXiv 1911.08947, section 3.4)."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ocr.losses.balanced_bce import balanced_bce
from ocr.losses.config import LossConfig
from ocr.losses.dice import dice_loss
from ocr.models.db_head import DBMaps, approximate_binary_map
from ocr.targets.target_maps import TargetMaps


class DBLosses(NamedTuple):
    """Scalar losses. `total` is the weighted sum, the parts are unweighted."""

    total: Tensor
    shrink: Tensor
    thresh: Tensor
    binary: Tensor


class DBLoss(nn.Module):
    """The weighted sum of the three parts, computed in float32 and without a host sync. Arithmetic alone handles empty masks."""

    def __init__(self, config: LossConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, maps: DBMaps, targets: TargetMaps) -> DBLosses:
        """Returns the losses of one batch; maps and targets are (B, H, W)."""
        config = self.config
        with torch.autocast(maps.prob_logits.device.type, enabled=False):
            shrink = balanced_bce(maps.prob_logits, targets.shrink_map, targets.shrink_mask, config.negative_ratio)
            errors = (maps.thresh_map - targets.thresh_map).abs() * targets.thresh_mask
            thresh = errors.sum() / targets.thresh_mask.sum().clamp(min=1)
            binary = dice_loss(approximate_binary_map(maps, config.k), targets.shrink_map, targets.shrink_mask)
            total = config.shrink_weight * shrink + config.thresh_weight * thresh + config.binary_weight * binary
        return DBLosses(total, shrink, thresh, binary)
