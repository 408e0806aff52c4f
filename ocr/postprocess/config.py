"""Configuration of post-processing: from probability maps to polygons."""

from typing import Annotated, Literal

from pydantic import Field

from dali_pipelines.config import Section


class PostprocessConfig(Section):
    """How a probability map becomes polygons. The shrink ratio is not here: it belongs to the targets."""

    bin_thresh: float = Field(default=0.3, gt=0, lt=1)
    """A map pixel belongs to text where its probability is above this."""
    box_thresh: float = Field(default=0.6, ge=0, le=1)
    """A region is kept when the mean probability of its pixels is at least this; the mean becomes its score."""
    max_candidates: int = Field(default=1000, ge=1)
    """At most this many regions of an image are turned into polygons: the best scored ones."""
    min_side: float = Field(default=4.0, ge=0)
    """Finished boxes whose shorter side is below this are dropped, in pixels of the network input."""
    output: Literal["quad", "polygon"] = "quad"
    """quad: rectangles at any angle, 4 points. polygon: outlines of 4 points or more, for curved text."""
    unclip_ratio: Literal["exact"] | Annotated[float, Field(gt=0)] = "exact"
    """exact: grow each region by the distance that undoes the shrinking of the targets. A number: the classic
    area * unclip_ratio / perimeter of the shrunk region (1.5 in the DBNet paper), too tight for long lines."""
    polygon_tolerance: float = Field(default=0.1, gt=0, le=1)
    """Polygon output: how far the simplified outline may leave the region's border, in parts of its thickness."""
    num_workers: int = Field(default=-1, ge=-1)
    """Threads beside the forward pass on each rank; -1: one less than the cores of this process, at least 1 and at most 4.
    0: the forward pass waits for each image's polygons."""
    max_pending: int = Field(default=64, ge=1)
    """Images whose polygons are still to be found before the forward pass waits: a byte of memory for each pixel of their
    maps."""
