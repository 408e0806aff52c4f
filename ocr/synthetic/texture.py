"""Draws surfaces: paper, tables, walls. Sizes are (H, W); pictures are (H, W, 3) float32, about 0..255."""

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt

FloatImage = npt.NDArray[np.float32]
Color = tuple[float, float, float]
Size = tuple[int, int]


def noise(rng: np.random.Generator, size: Size, cell: float, cell_x: float | None = None) -> FloatImage:
    """Returns smooth noise (H, W), standard deviation about 1, in spots `cell` pixels high and `cell_x` (default: `cell`) wide."""
    height, width = size
    cell_x = cell_x or cell
    if cell == cell_x == 1:
        return rng.standard_normal(size, dtype=np.float32)
    coarse = rng.standard_normal((int(height / cell) + 2, int(width / cell_x) + 2), dtype=np.float32)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def tinted(gray: FloatImage, color: Color) -> FloatImage:
    """Returns a colour times a brightness, (H, W) -> (H, W, 3)."""
    return gray[..., None] * np.array(color, np.float32)


def shifted(image: FloatImage, down: int, right: int) -> FloatImage:
    """Returns the picture (H, W) shifted by 0 or more pixels; its border pixels are repeated."""
    height, width = image.shape
    return np.pad(image, ((down, 0), (right, 0)), mode="edge")[:height, :width]


def paper(rng: np.random.Generator, size: Size, color: Color) -> FloatImage:
    """Returns paper: cloudy, with a fine grain."""
    cloud = 0.012 * noise(rng, size, 90) + 0.008 * noise(rng, size, 7) + 0.012 * noise(rng, size, 1)
    return tinted(1 + cloud, color)


def creases(rng: np.random.Generator, size: Size, folds: int, wrinkles: int) -> FloatImage:
    """Returns the brightness (H, W), about 1, of paper folded across or along and then slightly crumpled."""
    height, width = size
    y, x = np.mgrid[0:height:2, 0:width:2].astype(np.float32)
    light = np.ones_like(x)
    for i in range(folds + wrinkles):
        is_fold = i < folds
        angle = rng.integers(2) * np.pi / 2 + rng.normal(0, 0.02) if is_fold else rng.uniform(0, np.pi)
        through_x, through_y = rng.uniform(0.15, 0.85, 2) * (width, height)
        distance = np.float32(np.cos(angle)) * (x - through_x) + np.float32(np.sin(angle)) * (y - through_y)
        depth, reach = (rng.uniform(0.04, 0.10), width / 5) if is_fold else (rng.uniform(0.01, 0.04), width / 16)
        light += depth * rng.choice([-1, 1]) * np.sign(distance) * np.exp(-np.abs(distance) / np.float32(reach))
    return cv2.resize(light, (width, height), interpolation=cv2.INTER_LINEAR)


def wood(rng: np.random.Generator, size: Size) -> FloatImage:
    """Returns boards with a grain along x or along y."""
    if rng.random() < 0.5:
        return _boards(rng, size)
    return _boards(rng, (size[1], size[0])).transpose(1, 0, 2)


def _boards(rng: np.random.Generator, size: Size) -> FloatImage:
    height = size[0]
    grain = 0.10 * noise(rng, size, 4, 160) + 0.06 * noise(rng, size, 14, 400) + 0.04 * noise(rng, size, 1, 40)
    board_height = int(rng.uniform(0.12, 0.3) * height)
    tone = np.repeat(rng.normal(1, 0.07, height // board_height + 2), board_height)[:height].astype(np.float32)
    seams = np.arange(height) % board_height < 2
    tone[seams] *= 0.55
    colors = [(150, 105, 70), (104, 68, 46), (186, 148, 108), (92, 84, 78), (205, 180, 150)]
    return tinted((1 + grain) * tone[:, None], colors[rng.integers(len(colors))])


def stone(rng: np.random.Generator, size: Size) -> FloatImage:
    """Returns a speckled worktop."""
    level = rng.uniform(50, 190)
    speckle = 0.10 * noise(rng, size, 3) + 0.06 * noise(rng, size, 1) + 0.08 * noise(rng, size, 60)
    return tinted(1 + speckle, (level, level * rng.uniform(0.95, 1.02), level * rng.uniform(0.9, 1.05)))


def cloth(rng: np.random.Generator, size: Size) -> FloatImage:
    """Returns a woven tablecloth, plain or with stripes in both directions."""
    height, width = size
    y, x = np.arange(height, dtype=np.float32)[:, None], np.arange(width, dtype=np.float32)
    weave = 0.05 * np.sin(x * 2.1) * np.sin(y * 2.1) + 0.05 * noise(rng, size, 1) + 0.05 * noise(rng, size, 120)
    color = _any_color(rng, 60, 200)
    pitch = rng.uniform(50, 110)
    stripes = 0.16 * (((x / pitch) % 1 < 0.5).astype(np.float32) + ((y / pitch) % 1 < 0.5).astype(np.float32) - 1)
    return tinted(1 + weave + (stripes if rng.random() < 0.5 else 0), color)


def desk(rng: np.random.Generator, size: Size) -> FloatImage:
    """Returns a smooth painted surface."""
    return tinted(1 + 0.03 * noise(rng, size, 150) + 0.015 * noise(rng, size, 1), _any_color(rng, 35, 215))


def plaster(rng: np.random.Generator, size: Size) -> FloatImage:
    """Returns a rough wall lit from the side."""
    relief = noise(rng, size, 5) + 0.6 * noise(rng, size, 2)
    lit = relief - np.roll(relief, 1, 1)
    return tinted(1 + 0.06 * lit + 0.04 * noise(rng, size, 90), _any_color(rng, 110, 220))


def brick(rng: np.random.Generator, size: Size) -> FloatImage:
    """Returns a brick wall, with every second row shifted by half a brick."""
    height, width = size
    brick_height = int(rng.uniform(26, 46))
    brick_width = int(2.6 * brick_height)
    row = np.arange(height) // brick_height
    x = np.arange(width)[None, :] + (row % 2)[:, None] * (brick_width // 2)
    column = x // brick_width
    tones = rng.normal(1, 0.12, (row.max() + 1, column.max() + 1)).astype(np.float32)[row[:, None], column]
    is_mortar = ((np.arange(height) % brick_height < 4)[:, None]) | (x % brick_width < 4)
    colors = [(148, 84, 66), (122, 66, 54), (170, 130, 104), (190, 186, 180)]
    wall = tinted(tones * (1 + 0.09 * noise(rng, size, 3)), colors[rng.integers(len(colors))])
    mortar = tinted(1 + 0.06 * noise(rng, size, 2), (172, 166, 156))
    return cv2.GaussianBlur(np.where(is_mortar[..., None], mortar, wall), (0, 0), 0.8)


def cork(rng: np.random.Generator, size: Size) -> FloatImage:
    """Returns a pin board."""
    crumbs = 0.10 * noise(rng, size, 3.5) + 0.07 * noise(rng, size, 1.5) - 0.35 * (noise(rng, size, 4) > 2.1)
    return tinted(1 + crumbs.astype(np.float32), (186, 140, 94))


def tiles(rng: np.random.Generator, size: Size) -> FloatImage:
    """Returns glazed tiles."""
    height, width = size
    side = int(rng.uniform(70, 150))
    y, x = np.arange(height)[:, None], np.arange(width)
    is_joint = (y % side < 3) | (x % side < 3)
    glaze = tinted(1 + 0.03 * noise(rng, size, 60) + 0.01 * noise(rng, size, 1), _any_color(rng, 120, 225))
    return cv2.GaussianBlur(glaze * np.where(is_joint, 0.72, 1)[..., None].astype(np.float32), (0, 0), 0.7)


Surface = Callable[[np.random.Generator, Size], FloatImage]
TABLES: tuple[Surface, ...] = (wood, wood, stone, cloth, desk, tiles)
WALLS: tuple[Surface, ...] = (plaster, plaster, brick, cork, desk, tiles, wood)


def _any_color(rng: np.random.Generator, low: float, high: float) -> Color:
    """Returns a muted colour with a brightness between low and high."""
    level = rng.uniform(low, high)
    red, green, blue = level * (1 + rng.uniform(-0.18, 0.18, 3))
    return (red, green, blue)
