"""Photographs sheets that lie on a table or hang on a wall. Frames as in view.py."""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from ocr.synthetic import texture
from ocr.synthetic.page import Page
from ocr.synthetic.text import EDGE_POINTS, Points, pixel_centres, sample
from ocr.synthetic.texture import FloatImage, Size
from ocr.synthetic.view import View


@dataclass(frozen=True)
class Word:
    """One annotated run of text."""

    transcription: str
    polygon: Points
    """(n, 2) in the photo frame, n even and at least 4: the upper edge of the ink's box from left to right, then the lower edge
    from right to left. On the flat page, the box leaves `text.BOX_MARGIN` pixels around the ink."""
    is_legible: bool


@dataclass(frozen=True)
class Photo:
    """The upright image and the text in it."""

    pixels: npt.NDArray[np.uint8]
    """(H, W, 3) RGB."""
    words: list[Word]


@dataclass(frozen=True)
class Scene:
    """Background and sheets in front of the camera."""

    background: FloatImage
    """(H, W, 3), as large as the photo."""
    pages: list[Page]
    views: list[View]
    """One view per page."""


def photograph(rng: np.random.Generator, scene: Scene) -> Photo:
    """Returns the photo of a scene: sheets with folds and shadows, uneven light, blur and sensor noise."""
    picture = scene.background
    for page, view in zip(scene.pages, scene.views, strict=True):
        picture = _with_sheet(rng, picture, page, view)
    picture = picture * _light(rng, (picture.shape[0], picture.shape[1]))[..., None]
    words = [
        Word(printed.run.text, outline(view.photo_from_page(printed.edges)), printed.is_legible)
        for page, view in zip(scene.pages, scene.views, strict=True)
        for printed in page.prints
    ]
    return Photo(_developed(rng, picture), words)


def outline(edges: Points) -> Points:
    """Returns the polygon between an upper and a lower edge (2, EDGE_POINTS, 2), with as few of their points as possible.

    It has 4 to 14 points. With fewer than 14, it stays within 4 % of the text height, or half a pixel, of the edges.
    """
    height = np.linalg.norm(edges[1] - edges[0], axis=-1).mean()
    for pieces in range(1, 7):
        if _deviation(edges, pieces) <= max(0.5, 0.04 * height):
            break
    step = (EDGE_POINTS - 1) // pieces
    return np.concatenate([edges[0, ::step], edges[1, ::-step]])


def _deviation(edges: Points, pieces: int) -> float:
    """Returns the largest distance between the edges and their approximation by `pieces` chords."""
    step = (EDGE_POINTS - 1) // pieces
    start, chord = edges[:, :-1:step, None], np.diff(edges[:, ::step], axis=1)[:, :, None]
    offset = edges[:, :-1].reshape(2, pieces, step, 2) - start
    cross = chord[..., 0] * offset[..., 1] - chord[..., 1] * offset[..., 0]
    return float((np.abs(cross) / np.linalg.norm(chord, axis=-1)).max())


def _with_sheet(rng: np.random.Generator, picture: FloatImage, page: Page, view: View) -> FloatImage:
    """Returns the picture with one more sheet and its shadow."""
    height, width = picture.shape[:2]
    folds, wrinkles = int(rng.integers(0, 3)), int(rng.integers(0, 9))
    shade = texture.creases(rng, page.size, folds, wrinkles) * _curl_shade(view, page.size)
    printed = np.clip(page.pixels() * shade[..., None], 0, 255).astype(np.uint8)
    in_page = view.page_from_photo(pixel_centres(0, 0, width, height))
    sheet = sample(printed, in_page, cv2.BORDER_REPLICATE).astype(np.float32)
    # Distance in page pixels to the nearest side of the page; a rim of one pixel is blended.
    x, y = in_page[..., 0], in_page[..., 1]
    distance = np.minimum(np.minimum(x, page.size[1] - x), np.minimum(y, page.size[0] - y))
    covered = np.clip(distance + 0.5, 0, 1).astype(np.float32)
    shadow = texture.shifted(covered, *rng.integers(2, 9, 2).tolist())
    shadow = cv2.GaussianBlur(shadow, (0, 0), rng.uniform(2, 7))
    picture = picture * (1 - rng.uniform(0.25, 0.55) * shadow)[..., None]
    return picture + covered[..., None] * (sheet - picture)


def _curl_shade(view: View, size: Size) -> FloatImage:
    """Returns the brightness (1, W) of a curled sheet lit from one side."""
    x = np.arange(size[1], dtype=np.float64) + 0.5
    slope = np.gradient(view.curl.height(x))
    return (1 + 0.6 * slope).astype(np.float32)[None]


def _light(rng: np.random.Generator, size: Size) -> FloatImage:
    """Returns the brightness (H, W): brighter on one side, darker at the corners, sometimes with a soft shadow across."""
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
    """Returns the picture with white balance, blur and noise of a camera."""
    balance = 1 + rng.normal(0, 0.03, 3).astype(np.float32)
    blurred = cv2.GaussianBlur(picture * balance, (0, 0), rng.uniform(0.35, 0.8))
    size: Size = (picture.shape[0], picture.shape[1])
    grain = rng.uniform(1, 4) * (texture.noise(rng, size, 1) + 0.5 * texture.noise(rng, size, 2))
    return np.clip(blurred + (grain + 0.5)[..., None], 0, 255).astype(np.uint8)
