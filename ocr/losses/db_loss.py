"""The DBNet loss over shrink map, threshold map and binary map (arXiv 1911.08947, section 3.4)."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ocr.losses.balanced_bce import balanced_bce
from ocr.losses.config import LossConfig
from ocr.losses.dice import dice_loss
from ocr.losses.focal import focal_loss
from ocr.models.db_head import DBMaps, TrainingMaps, approximate_binary_map
from ocr.targets.target_maps import TargetMaps

FOCAL_SCALE = 5.0
"""Weight of the focal loss beside the dice loss: 10 times a class weight of 0.5, as in docTR."""


class DBLosses(NamedTuple):
    """Scalar losses. `total` is the weighted sum, the parts are unweighted. An auxiliary head only adds to `total`."""

    total: Tensor
    shrink: Tensor
    thresh: Tensor
    binary: Tensor


class DBLoss(nn.Module):
    """The weighted sum of the three parts, computed in float32 and without a host sync. Arithmetic alone handles empty masks."""

    def __init__(self, config: LossConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, maps: DBMaps | TrainingMaps, targets: TargetMaps) -> DBLosses:
        """Returns the losses of one batch; maps and targets are (B, H, W)."""
        if not isinstance(maps, TrainingMaps):
            return self._losses(maps, targets)
        losses, auxiliary = (self._losses(each, targets) for each in maps)
        return losses._replace(total=losses.total + self.config.auxiliary_weight * auxiliary.total)

    def _losses(self, maps: DBMaps, targets: TargetMaps) -> DBLosses:
        config = self.config
        with torch.autocast(maps.prob_logits.device.type, enabled=False):
            target, mask = self._rows(targets.shrink_map), self._rows(targets.shrink_mask)
            shrink = self._shrink_losses(self._rows(maps.prob_logits), target, mask).mean()
            binary = dice_loss(self._rows(approximate_binary_map(maps, config.k)), target, mask).mean()
            errors = self._rows((maps.thresh_map - targets.thresh_map).abs() * targets.thresh_mask)
            thresh = (errors.sum(1) / self._rows(targets.thresh_mask).sum(1).clamp(min=1)).mean()
            total = config.shrink_weight * shrink + config.thresh_weight * thresh + config.binary_weight * binary
        return DBLosses(total, shrink, thresh, binary)

    def _shrink_losses(self, logits: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        """Returns the shrink map's loss of each row, (R,)."""
        config = self.config
        if config.shrink_loss == "balanced_bce":
            return balanced_bce(logits, target, mask, config.negative_ratio)
        focal = focal_loss(logits, target, mask, config.focal_gamma)
        return FOCAL_SCALE * focal + dice_loss(torch.sigmoid(logits), target, mask)

    def _rows(self, batch: Tensor) -> Tensor:
        """Returns the pixels in rows, each of which is averaged by itself: one row an image, or one for the batch."""
        return batch.flatten(1) if self.config.per_image else batch.flatten().unsqueeze(0)
