"""Configuration of the ground-truth maps."""

from typing import Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from dali_pipelines.config import Section


class TargetConfig(Section):
    """Settings of the target maps that a DBNet learns (arXiv 1911.08947, section 3.4)."""

    shrink_ratio: float = Field(default=0.4, gt=0, lt=1)
    """r of the paper. A polygon shrinks by D = area (1 - r^2) / perimeter, and its threshold band is D wide on both sides."""
    thresh_min: float = Field(default=0.3, ge=0, le=1)
    """Value of the threshold map outside all bands."""
    thresh_max: float = Field(default=0.7, ge=0, le=1)
    """Value of the threshold map on the border of a polygon."""
    min_side: float = Field(default=8.0, ge=0)
    """Text with a shorter side below this, in input pixels, is too small to learn and becomes a don't-care region.

    The shorter side is that of the rectangle with the polygon's area and perimeter: exact for rectangles, and independent of
    rotation. (DB's code takes the axis-aligned bounding box, which accepts text of 3 px rotated by 45 degrees.) With map_stride 4
    the shrunk core of long text is thinner than a map pixel below a side of about 25.
    """
    map_stride: Literal[1, 2, 4] = 1
    """Input pixels per map pixel along each axis."""
    max_text_weight: int = Field(default=1, ge=1, le=255)
    """Largest weight of a small text, with the band around it, in the losses of the shrink map and the binary map.

    With 1, all pixels count alike, as in the paper: a long line of a receipt counts 27 times as much as a single digit, and digits
    are learned late or not at all. Above 1, a text that is smaller than the average text of its input has the weight average area /
    own area, rounded, at most this. The idea is that of PixelLink's instance-balanced cross-entropy (arXiv 1801.01315), which
    weighs text pixels only; that makes the regions of small text too large.
    """

    @model_validator(mode="after")
    def _thresholds_ascend(self) -> Self:
        if self.thresh_min >= self.thresh_max:
            raise ValueError(f"thresh_min {self.thresh_min} must be below thresh_max {self.thresh_max}")
        return self
