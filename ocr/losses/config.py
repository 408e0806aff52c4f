"""Configuration of the loss."""

from typing import Literal

from pydantic import Field

from dali_pipelines.config import Section


class LossConfig(Section):
    """Weights and constants of the DBNet loss (arXiv 1911.08947, section 3.4)."""

    shrink_loss: Literal["balanced_bce", "focal_dice"] = "balanced_bce"
    """Loss of the shrink map. balanced_bce: cross-entropy over the text and the hardest negatives, as in the paper. focal_dice: 5
    times the focal loss (arXiv 1708.02002) plus the dice loss, both over all pixels."""
    shrink_weight: float = Field(default=1.0, ge=0)
    """Weight of the shrink map's loss."""
    binary_weight: float = Field(default=1.0, ge=0)
    """Weight of the binary map's dice loss (alpha in the paper)."""
    thresh_weight: float = Field(default=10.0, ge=0)
    """Weight of the threshold map's L1 loss (beta in the paper)."""
    negative_ratio: float = Field(default=3.0, gt=0)
    """Number of hard negatives per positive pixel; focal_dice ignores it."""
    focal_gamma: float = Field(default=2.0, ge=0)
    """Exponent of the focal loss: the larger it is, the less nearly right pixels count; balanced_bce ignores it."""
    auxiliary_weight: float = Field(default=0.0, ge=0)
    """Weight of the same losses of an auxiliary head at stride 8, which only training has; 0: no such head. Its weights are in
    checkpoints, for resuming; evaluation, export and `init_from` leave them out."""
    per_image: bool = False
    """Average each part over the pixels of each image, then over the images. False averages over the pixels of the whole batch, as
    the paper does, so that an image counts as much as it has text: in a batch of receipts and scenes, the receipts decide. True is
    for continuing a training: an untrained head learns much more slowly with it."""
    k: float = Field(default=50.0, gt=0)
    """Steepness of the differentiable step."""
