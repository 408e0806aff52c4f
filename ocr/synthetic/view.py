"""The view of a sheet: the map between the flat page and the photo, exact in both directions.

Two frames: the page (flat sheet, see page.py) and the photo (the upright image, called "original" elsewhere).
"""

from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt

from dali_pipelines import geometry
from ocr.synthetic.config import SyntheticConfig
from ocr.synthetic.page import Page
from ocr.synthetic.text import Points, Wave
from ocr.synthetic.texture import Size

FLAT = Wave(0, 0, 0, 1, 0)
_MIN_BORDER = 3.0
"""Smallest distance in pixels between text and the border of the photo."""


@dataclass(frozen=True)
class View:
    """A sheet curled along both axes, then seen in perspective."""

    photo_from_curled: geometry.Matrix
    """(3, 3) projective."""
    curl: Wave = FLAT
    """Moves points up or down depending on x, so that lines of text bend."""
    sway: Wave = FLAT
    """Moves points sideways depending on y, so that the sides of the sheet bend."""

    def photo_from_page(self, points_page: Points) -> Points:
        """Returns the points in the photo frame."""
        swayed = self.sway.bend(points_page[..., ::-1])[..., ::-1]
        return _project(self.photo_from_curled, self.curl.bend(swayed))

    def page_from_photo(self, points_photo: Points) -> Points:
        """Returns the points in the page frame."""
        curled = _project(np.linalg.inv(self.photo_from_curled).astype(np.float64), points_photo)
        return self.sway.flatten(self.curl.flatten(curled)[..., ::-1])[..., ::-1]


def choose_view(
    rng: np.random.Generator, config: SyntheticConfig, page: Page, cell: npt.ArrayLike, photo: Size
) -> View:
    """Returns a random view with the sheet inside the cell (x0, y0, x1, y1) and its text inside the photo (H, W).

    The cell may extend beyond the photo.
    """
    height, width = page.size
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float64)
    curl = sway = FLAT
    if rng.random() < config.bent_share:
        curl = Wave(0, 0, rng.uniform(0.018, 0.045) * width, width * rng.uniform(0.9, 2.0), rng.uniform(0, 2 * np.pi))
    if rng.random() < 0.4:
        sway = Wave(0, 0, rng.uniform(0.002, 0.01) * width, height * rng.uniform(0.8, 2.0), rng.uniform(0, 2 * np.pi))
    moved = corners + rng.uniform(-1, 1, (4, 2)) * config.max_perspective * min(page.size)
    perspective = cv2.getPerspectiveTransform(corners.astype(np.float32), moved.astype(np.float32))
    turn = geometry.rotation(rng.uniform(-1, 1) * config.max_rotation)
    box = np.asarray(cell, np.float64)
    middle = (box[:2] + box[2:]) / 2 + rng.uniform(-0.05, 0.05, 2) * (box[2:] - box[:2])
    centred = geometry.translation(-width / 2, -height / 2) @ perspective
    view = View(geometry.translation(*middle) @ turn @ centred, curl, sway)
    rim = np.concatenate([np.linspace(corners[i], corners[(i + 1) % 4], 32) for i in range(4)])
    view = _moved_inside(view, rim, box)
    if not page.prints:
        return view
    text = np.concatenate([printed.edges.reshape(-1, 2) for printed in page.prints])
    border = _MIN_BORDER
    return _moved_inside(view, text, np.array([border, border, photo[1] - border, photo[0] - border]))


def _project(matrix: geometry.Matrix, points: Points) -> Points:
    flat = np.ascontiguousarray(points.reshape(1, -1, 2))
    return np.asarray(cv2.perspectiveTransform(flat, matrix).reshape(points.shape), np.float64)


def _moved_inside(view: View, points_page: Points, box: Points) -> View:
    """Returns the view, scaled down and moved just enough to bring the points into the box (x0, y0, x1, y1)."""
    points = view.photo_from_page(points_page)
    low, high = points.min(0), points.max(0)
    scale = min(1.0, float(((box[2:] - box[:2]) / (high - low)).min()))
    centre, half = (low + high) / 2, scale * (high - low) / 2
    target = np.clip(centre, box[:2] + half, np.maximum(box[2:] - half, box[:2] + half))
    fit = geometry.translation(*target) @ geometry.scaling(scale, scale) @ geometry.translation(*-centre)
    return replace(view, photo_from_curled=fit @ view.photo_from_curled)
