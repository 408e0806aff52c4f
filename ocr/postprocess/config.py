"""Configuration of post-processing."""

from typing import Annotated, Literal

from pydantic import Field

from dali_pipelines.config import Section


class PostprocessConfig(Section):
    """Settings that turn a probability map into polygons. The shrink ratio is a setting of the targets."""

    bin_thresh: float = Field(default=0.3, gt=0, lt=1)
    """Map pixels with a probability above this are text."""
    box_thresh: float = Field(default=0.6, ge=0, le=1)
    """Smallest score of a region that is kept. The score is the mean probability of its pixels."""
    max_candidates: int = Field(default=1000, ge=1)
    """Largest number of regions per image that become polygons; those with the highest scores are taken, and
    a warning names the images that have more."""
    min_side: float = Field(default=4.0, ge=0)
    """Boxes with a shorter side below this are dropped, in pixels of the network's input."""
    output: Literal["quad", "polygon"] = "quad"
    """quad: rectangles at any angle, 4 points. polygon: outlines of at least 4 points, for curved text."""
    unclip_ratio: Literal["exact"] | Annotated[float, Field(gt=0)] = "exact"
    """exact: grow each region by the distance that undoes the shrinking of the targets. A number: grow it by
    area * unclip_ratio / perimeter of the shrunk region (1.5 in the DBNet paper), which is too tight for long lines."""
    unclip_offset: float = Field(default=0.0, ge=-100, le=100)
    """Pixels of the network's input by which regions grow further on every side. Above 0 for a network whose boxes are too tight,
    below 0 for one whose boxes are too loose: choose it by hmean at IoU 0.7 on training images."""
    polygon_tolerance: float = Field(default=0.1, gt=0, le=1)
    """Polygon output: largest distance between the simplified outline and the region's border, as a fraction of its thickness."""
    num_workers: int = Field(default=-1, ge=-1)
    """Post-processing threads on each rank; -1: one less than the cores of this process, at least 1 and at most 8. 0: no threads,
    the forward pass waits for each image's polygons."""
    max_pending: int = Field(default=64, ge=1)
    """Largest number of images that wait for post-processing; the forward pass pauses at this number. Each takes one byte per map
    pixel."""


RESULT_KEYS = (
    *("bin_thresh", "box_thresh", "max_candidates", "min_side", "output", "unclip_ratio", "unclip_offset"),
    "polygon_tolerance",
)
"""Keys that decide the result. A trained network keeps them: they are in exported files and restored from checkpoints."""
