"""Chooses the content of one picture of the data set."""

import numpy as np
import numpy.typing as npt

from ocr.synthetic import clutter, sheets, texture
from ocr.synthetic.config import SyntheticConfig
from ocr.synthetic.page import Page
from ocr.synthetic.photo import Photo, Scene, photograph
from ocr.synthetic.texture import Size
from ocr.synthetic.view import choose_view

NETWORK_SIDE = 640
"""Longest side in pixels of a picture scaled to the network input; the text heights of the config refer to it."""


def draw_photo(rng: np.random.Generator, config: SyntheticConfig) -> Photo:
    """Returns one picture of receipts or notices."""
    return photograph(rng, compose(rng, config))


def compose(rng: np.random.Generator, config: SyntheticConfig) -> Scene:
    """Returns receipts on a table or notices on a wall, two side by side if the picture is wider than high."""
    is_notice, is_blank = rng.random() < config.notice_share, rng.random() < config.blank_share
    size = _photo_size(rng, config, portrait_share=0.6 if is_notice else 0.9)
    surfaces = texture.WALLS if is_notice else texture.TABLES
    background = surfaces[rng.integers(len(surfaces))](rng, size) * np.float32(rng.uniform(0.7, 1.0))
    if not is_notice:
        background = clutter.with_clutter(rng, background)
    num_sheets = 2 if size[1] > size[0] else 1
    pages, views = [], []
    for i in range(num_sheets):
        cell = _cell(size, i, num_sheets)
        page = _sheet(rng, config, (size[0], size[1] // num_sheets), max(size) / NETWORK_SIDE, is_notice, is_blank)
        pages.append(page)
        views.append(choose_view(rng, config, page, cell, size))
    return Scene(background, pages, views)


def _cell(photo: Size, sheet: int, num_sheets: int) -> npt.NDArray[np.float64]:
    """Returns the box (x0, y0, x1, y1) for a sheet: its share of the photo's width, or slightly more than the photo."""
    height, width = photo
    out = 0.02 * width if num_sheets == 1 else -0.005 * width
    left, right = (width * sheet / num_sheets, width * (sheet + 1) / num_sheets)
    return np.array([left - out, -out, right + out, height + out])


def _photo_size(rng: np.random.Generator, config: SyntheticConfig, portrait_share: float) -> Size:
    """Returns a random (H, W); a share of `portrait_share` is higher than wide."""
    longest = int(rng.integers(max(config.min_side, 3 * config.max_side // 4), config.max_side + 1))
    shortest = max(config.min_side, int(longest * rng.uniform(0.64, 0.82)))
    return (longest, shortest) if rng.random() < portrait_share else (shortest, longest)


def _sheet(
    rng: np.random.Generator, config: SyntheticConfig, cell: Size, scale: float, is_notice: bool, is_blank: bool
) -> Page:
    """Returns a page that fits a cell (H, W); `scale` is photo pixels per network pixel."""
    text_height = scale * rng.uniform(config.min_text_height, config.max_text_height)
    height, width = cell[0] * rng.uniform(0.84, 0.94), cell[1] * rng.uniform(0.74, 0.92)
    size = (int(height), int(width))
    if is_blank:
        return sheets.blank(rng, size)
    draw = sheets.notice if is_notice else sheets.receipt
    return draw(rng, config, size, text_height)
