"""A printed sheet: its paper and the runs of text on it.

All coordinates are in the page frame: pixels of the flat sheet, origin at its top left.
"""

from dataclasses import dataclass, field, replace

import numpy as np

from ocr.synthetic import text
from ocr.synthetic.texture import Color, FloatImage


@dataclass(frozen=True)
class Print:
    """One run of text on a page."""

    run: text.Run
    curve: text.Curve
    """Map from the run's frame to the page frame."""
    color: Color
    is_legible: bool

    @property
    def edges(self) -> text.Points:
        """Upper and lower edge of the ink with its margin, left to right: (2, EDGE_POINTS, 2)."""
        return self.curve.bend(self.run.edges)


@dataclass(frozen=True)
class Page:
    """A flat sheet."""

    paper: FloatImage
    """(H, W, 3): everything on the sheet except its text."""
    ink_strength: FloatImage
    """(H, W): share of the ink that sticks to the paper, 0..1."""
    prints: list[Print] = field(default_factory=list)

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the sheet."""
        return self.paper.shape[0], self.paper.shape[1]

    def cropped(self, height: int) -> "Page":
        """Returns the upper `height` pixels of the sheet."""
        return replace(self, paper=self.paper[:height], ink_strength=self.ink_strength[:height])

    def pixels(self) -> FloatImage:
        """Returns the printed sheet (H, W, 3)."""
        pixels = self.paper.copy()
        for printed in self.prints:
            _stamp_(pixels, self.ink_strength, printed)
        return pixels


def _stamp_(pixels: FloatImage, ink_strength: FloatImage, printed: Print) -> None:
    """Prints one run on the pixels."""
    height, width = ink_strength.shape
    run = printed.run
    rows, columns = run.coverage.shape
    corners = np.array([[0, 0], [columns, 0], [columns, rows], [0, rows]], np.float64) - run.origin
    rim = np.concatenate([np.linspace(corners[i], corners[(i + 1) % 4], 16) for i in range(4)])
    on_page = printed.curve.bend(rim)
    left, top = np.maximum(np.floor(on_page.min(0)).astype(int), 0)
    right, bottom = np.minimum(np.ceil(on_page.max(0)).astype(int), (width, height))
    if left >= right or top >= bottom:
        return
    in_run = printed.curve.flatten(text.pixel_centres(left, top, right - left, bottom - top))
    coverage = text.sample(run.coverage, in_run + run.origin)
    share = coverage.astype(np.float32)[..., None] / 255 * ink_strength[top:bottom, left:right, None]
    patch = pixels[top:bottom, left:right]
    patch += share * (np.array(printed.color, np.float32) - patch)
