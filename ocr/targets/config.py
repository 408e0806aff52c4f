"""Configuration of the ground-truth maps."""

from typing import Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from dali_pipelines.config import Section


class TargetConfig(Section):
    """How polygons become the maps a DBNet learns (arXiv 1911.08947, section 3.4)."""

    shrink_ratio: float = Field(default=0.4, gt=0, lt=1)
    """r of the paper: a polygon shrinks, and its threshold band reaches, by D = area (1 - r^2) / perimeter."""
    thresh_min: float = Field(default=0.3, ge=0, le=1)
    """Threshold map away from every border."""
    thresh_max: float = Field(default=0.7, ge=0, le=1)
    """Threshold map on the border of a polygon."""
    min_side: float = Field(default=8.0, ge=0)
    """Text is too small to learn when its short side is below this, in input pixels; it is then a don't-care region.

    The short side is that of the rectangle with the polygon's area and perimeter: exact for rectangles, the same for
    every rotation. (DB's code takes the axis-parallel bounding box, so that text of 3 px turned by 45 degrees passes.)
    With map_stride 4 the shrunk core of long text is thinner than a map pixel below a side of about 25.
    """
    map_stride: Literal[1, 2, 4] = 1
    """Input pixels per map pixel, along each axis."""

    @model_validator(mode="after")
    def _thresholds_ascend(self) -> Self:
        if self.thresh_min >= self.thresh_max:
            raise ValueError(f"thresh_min {self.thresh_min} must be below thresh_max {self.thresh_max}")
        return self
