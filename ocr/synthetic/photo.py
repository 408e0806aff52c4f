"""Sheets lying on a table or hanging on a wall, as a camera sees them.

Two frames: the page (flat sheet, see page.py) and the photo (the upright picture, frame "original" elsewhere).
"""

from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt

from dali_pipelines import geometry
from ocr.synthetic import texture
from ocr.synthetic.config import SyntheticConfig
from ocr.synthetic.page import Page
from ocr.synthetic.text import EDGE_POINTS, Points, Wave, pixel_centres, sample
from ocr.synthetic.texture import FloatImage, Size

FLAT = Wave(0, 0, 0, 1, 0)
_LEAST_BORDER = 3.0  # pixels between any text and the border of the photo


@dataclass(frozen=True)
class View:
    """How a sheet appears in the photo: curled along both axes, then seen in perspective. Exact in both directions."""

    photo_from_curled: geometry.Matrix
    """(3, 3) projective."""
    curl: Wave = FLAT
    """Moves points up and down, depending on x: lines of text bend."""
    sway: Wave = FLAT
    """Moves points sideways, depending on y: the sheet's sides bend."""

    def photo_from_page(self, points_page: Points) -> Points:
        swayed = self.sway.bend(points_page[..., ::-1])[..., ::-1]
        return _project(self.photo_from_curled, self.curl.bend(swayed))

    def page_from_photo(self, points_photo: Points) -> Points:
        curled = _project(np.linalg.inv(self.photo_from_curled).astype(np.float64), points_photo)
        return self.sway.flatten(self.curl.flatten(curled)[..., ::-1])[..., ::-1]


@dataclass(frozen=True)
class Word:
    """One annotated run of text."""

    transcription: str
    polygon: Points
    """(n, 2), n even and at least 4, photo frame: the upper edge of the ink's box from left to right, then the lower
    edge from right to left. The box has `text.BOX_MARGIN` pixels of the flat page around the ink."""
    is_legible: bool


@dataclass(frozen=True)
class Photo:
    """The upright picture and the text in it."""

    pixels: npt.NDArray[np.uint8]
    """(H, W, 3) RGB."""
    words: list[Word]


@dataclass(frozen=True)
class Scene:
    """What stands before the camera."""

    background: FloatImage
    """(H, W, 3), of the photo's size."""
    pages: list[Page]
    views: list[View]
    """One for each page."""


def choose_view(
    rng: np.random.Generator, config: SyntheticConfig, page: Page, cell: npt.ArrayLike, photo: Size
) -> View:
    """A view that shows the sheet inside the cell (x0, y0, x1, y1) and its text inside the photo (H, W).

    The cell may reach out of the photo.
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
    border = _LEAST_BORDER
    return _moved_inside(view, text, np.array([border, border, photo[1] - border, photo[0] - border]))


def photograph(rng: np.random.Generator, scene: Scene) -> Photo:
    """The picture of a scene: sheets with folds and shadows, uneven light, blur and sensor noise."""
    picture = scene.background
    for page, view in zip(scene.pages, scene.views, strict=True):
        picture = _laid(rng, picture, page, view)
    picture = picture * _light(rng, (picture.shape[0], picture.shape[1]))[..., None]
    words = [
        Word(printed.run.text, outline(view.photo_from_page(printed.edges)), printed.is_legible)
        for page, view in zip(scene.pages, scene.views, strict=True)
        for printed in page.prints
    ]
    return Photo(_developed(rng, picture), words)


def outline(edges: Points) -> Points:
    """The polygon between an upper and a lower edge (2, EDGE_POINTS, 2), with as few of their points as will do.

    4 to 14 points; with fewer than 14 it stays within 4 % of the text height, or half a pixel, of the edges.
    """
    height = np.linalg.norm(edges[1] - edges[0], axis=-1).mean()
    for pieces in range(1, 7):
        if _deviation(edges, pieces) <= max(0.5, 0.04 * height):
            break
    step = (EDGE_POINTS - 1) // pieces
    return np.concatenate([edges[0, ::step], edges[1, ::-step]])


def _deviation(edges: Points, pieces: int) -> float:
    """Greatest distance of edge points from the chords of so many pieces."""
    step = (EDGE_POINTS - 1) // pieces
    start, chord = edges[:, :-1:step, None], np.diff(edges[:, ::step], axis=1)[:, :, None]
    offset = edges[:, :-1].reshape(2, pieces, step, 2) - start
    cross = chord[..., 0] * offset[..., 1] - chord[..., 1] * offset[..., 0]
    return float((np.abs(cross) / np.linalg.norm(chord, axis=-1)).max())


def _project(matrix: geometry.Matrix, points: Points) -> Points:
    flat = np.ascontiguousarray(points.reshape(1, -1, 2))
    return np.asarray(cv2.perspectiveTransform(flat, matrix).reshape(points.shape), np.float64)


def _moved_inside(view: View, points_page: Points, box: Points) -> View:
    """The view, scaled down and moved no more than needed to have the points in this box (x0, y0, x1, y1)."""
    points = view.photo_from_page(points_page)
    low, high = points.min(0), points.max(0)
    scale = min(1.0, float(((box[2:] - box[:2]) / (high - low)).min()))
    centre, half = (low + high) / 2, scale * (high - low) / 2
    target = np.clip(centre, box[:2] + half, np.maximum(box[2:] - half, box[:2] + half))
    fit = geometry.translation(*target) @ geometry.scaling(scale, scale) @ geometry.translation(*-centre)
    return replace(view, photo_from_curled=fit @ view.photo_from_curled)


def _laid(rng: np.random.Generator, picture: FloatImage, page: Page, view: View) -> FloatImage:
    """The picture with one more sheet and the shadow that it casts."""
    height, width = picture.shape[:2]
    folds, wrinkles = int(rng.integers(0, 3)), int(rng.integers(0, 9))
    shade = texture.creases(rng, page.size, folds, wrinkles) * _curl_shade(view, page.size)
    printed = np.clip(page.pixels() * shade[..., None], 0, 255).astype(np.uint8)
    in_page = view.page_from_photo(pixel_centres(0, 0, width, height))
    sheet = sample(printed, in_page, cv2.BORDER_REPLICATE).astype(np.float32)
    # Distance to the nearest side of the page, in its pixels: a rim one pixel wide is blended.
    x, y = in_page[..., 0], in_page[..., 1]
    distance = np.minimum(np.minimum(x, page.size[1] - x), np.minimum(y, page.size[0] - y))
    covered = np.clip(distance + 0.5, 0, 1).astype(np.float32)
    shadow = texture.shifted(covered, *rng.integers(2, 9, 2).tolist())
    shadow = cv2.GaussianBlur(shadow, (0, 0), rng.uniform(2, 7))
    picture = picture * (1 - rng.uniform(0.25, 0.55) * shadow)[..., None]
    return picture + covered[..., None] * (sheet - picture)


def _curl_shade(view: View, size: Size) -> FloatImage:
    """(1, W) brightness of a curled sheet lit from one side."""
    x = np.arange(size[1], dtype=np.float64) + 0.5
    slope = np.gradient(view.curl.height(x))
    return (1 + 0.6 * slope).astype(np.float32)[None]


def _light(rng: np.random.Generator, size: Size) -> FloatImage:
    """(H, W) brightness: brighter on one side, darker towards the corners, sometimes with a soft shadow across."""
    y, x = np.meshgrid(np.linspace(-1, 1, 48), np.linspace(-1, 1, 48), indexing="ij")
    angle = rng.uniform(0, 2 * np.pi)
    across = np.cos(angle) * x + np.sin(angle) * y
    light = rng.uniform(0.78, 1.0) + rng.uniform(0, 0.16) * across - rng.uniform(0, 0.1) * (x**2 + y**2)
    if rng.random() < 0.4:
        angle = rng.uniform(0, 2 * np.pi)
        inside = np.cos(angle) * x + np.sin(angle) * y - rng.uniform(-0.2, 0.6)
        light *= 1 - rng.uniform(0.15, 0.4) / (1 + np.exp(-inside / rng.uniform(0.01, 0.15)))
    return cv2.resize(light.astype(np.float32), (size[1], size[0]), interpolation=cv2.INTER_LINEAR)


def _developed(rng: np.random.Generator, picture: FloatImage) -> npt.NDArray[np.uint8]:
    """What the camera stores: white balance, blur, noise."""
    balance = 1 + rng.normal(0, 0.03, 3).astype(np.float32)
    blurred = cv2.GaussianBlur(picture * balance, (0, 0), rng.uniform(0.35, 0.8))
    size: Size = (picture.shape[0], picture.shape[1])
    grain = rng.uniform(1, 4) * (texture.noise(rng, size, 1) + 0.5 * texture.noise(rng, size, 2))
    return np.clip(blurred + (grain + 0.5)[..., None], 0, 255).astype(np.uint8)
