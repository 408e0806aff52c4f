"""Histograms as plain data, which a page draws as SVG and a sheet with Pillow."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Histogram:
    """Counts of one measure."""

    title: str
    labels: tuple[str, ...]
    """(B,) range or name of each bar."""
    counts: tuple[int, ...]
    """(B,) number of images or words."""
    note: str
    """Median and extremes in words."""
