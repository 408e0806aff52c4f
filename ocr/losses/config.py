"""Configuration of the loss."""

from pydantic import Field

from dali_pipelines.config import Section


class LossConfig(Section):
    """Weights and constants of the DBNet loss (arXiv 1911.08947, section 3.4)."""

    shrink_weight: float = Field(default=1.0, ge=0)
    """Weight of the shrink-map cross-entropy."""
    binary_weight: float = Field(default=1.0, ge=0)
    """Weight of the binary map's dice loss (alpha in the paper)."""
    thresh_weight: float = Field(default=10.0, ge=0)
    """Weight of the threshold map's L1 loss (beta in the paper)."""
    negative_ratio: float = Field(default=3.0, gt=0)
    """Number of hard negatives per positive pixel."""
    per_image: bool = False
    """Average each part over the pixels of each image, then over the images. False averages over the pixels of the whole batch, as
    the paper does, so that an image counts as much as it has text: in a batch of receipts and scenes, the receipts decide. True is
    for continuing a training: an untrained head learns much more slowly with it."""
    k: float = Field(default=50.0, gt=0)
    """Steepness of the differentiable step."""
