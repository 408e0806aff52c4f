"""Draws runs of text as ink coverage, and defines the curves that they follow."""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Protocol

import cv2
import font_amatic_sc
import font_roboto
import font_source_serif_pro
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

Points = npt.NDArray[np.float64]
"""(..., 2): points (x, y), continuous; the centre of a pixel is at +0.5."""

FONT_FILES: dict[str, str] = {
    **font_roboto.font_files,
    **font_source_serif_pro.font_files_ttf,
    **font_amatic_sc.font_files,
}

BOX_MARGIN = 1.0
"""Margin between the ink of a run and its polygon, in pixels of the flat page."""
EDGE_POINTS = 61
"""Number of points on the upper and on the lower edge of a run; 60 steps divide evenly into 1 to 6 pieces."""
_INK_SHARE = 0.25
"""Smallest coverage that counts as ink, relative to the largest. The rims of antialiased letters are fainter."""


@lru_cache(maxsize=256)
def _font(face: str, size: float) -> ImageFont.FreeTypeFont:
    # Every Pillow has the basic layout engine; with it, files do not depend on libraqm.
    return ImageFont.truetype(FONT_FILES[face], size, layout_engine=ImageFont.Layout.BASIC)


@lru_cache(maxsize=64)
def _capital_height(face: str) -> float:
    """Returns the height of a capital letter as a share of the font size."""
    _, top, _, bottom = _font(face, 100.0).getbbox("H", anchor="ls")
    return (bottom - top) / 100.0


@dataclass(frozen=True)
class Style:
    """Typeface and height of a run of text."""

    face: str
    """Key of FONT_FILES."""
    height: float
    """Height of a capital letter in pixels."""
    fixed_pitch: bool = False
    """Whether every letter has the same width, as on receipt printers."""


@dataclass(frozen=True)
class Run:
    """One run of text, drawn flat. The origin of its frame is on the baseline in the middle of the ink; y points down."""

    text: str
    coverage: npt.NDArray[np.uint8]
    """(h, w): 255 is full ink."""
    origin: tuple[float, float]
    """Origin of the frame in pixels of `coverage`."""
    box: tuple[float, float, float, float]
    """Left, top, right and bottom of the ink in the run's frame, without margin."""

    @property
    def width(self) -> float:
        return self.box[2] - self.box[0]

    @property
    def height(self) -> float:
        return self.box[3] - self.box[1]

    @property
    def edges(self) -> Points:
        """Upper and lower edge of the ink's box with its margin, left to right, in the run's frame: (2, EDGE_POINTS, 2)."""
        left, top, right, bottom = np.array(self.box) + BOX_MARGIN * np.array([-1, -1, 1, 1])
        x = np.linspace(left, right, EDGE_POINTS)
        return np.stack([np.stack([x, np.full_like(x, y)], -1) for y in (top, bottom)])

    def smeared(self) -> "Run":
        """Returns the run, blurred until it is illegible."""
        pad = round(self.height)
        padded = np.pad(self.coverage, pad)
        washed = cv2.GaussianBlur(padded, (0, 0), 0.3 * self.height)
        return replace(self, coverage=washed, origin=(self.origin[0] + pad, self.origin[1] + pad))

    def struck_out(self, rng: np.random.Generator) -> "Run":
        """Returns the run, struck out by the zigzag of a pen."""
        left, top, right, bottom = np.array(self.box) + np.tile(self.origin, 2)
        strokes = max(6, int(1.6 * self.width / self.height))
        x = np.linspace(left, right, strokes) + rng.normal(0, 0.1 * self.height, strokes)
        y = np.where(np.arange(strokes) % 2, top, bottom) + rng.normal(0, 0.1 * self.height, strokes)
        zigzag = np.clip(np.stack([x, y], -1), (left, top), (right, bottom)).astype(np.int32)
        thickness = max(2, round(self.height / 6))
        struck = cv2.polylines(self.coverage.copy(), [zigzag], False, (255,), thickness, cv2.LINE_AA)
        return replace(self, coverage=np.asarray(struck))


def draw_run(text: str, style: Style) -> Run:
    """Returns the run of a text with at least one visible letter."""
    font = _font(style.face, round(style.height / _capital_height(style.face), 1))
    lengths = [font.getlength(letter) for letter in text]
    ascent, descent = font.getmetrics()
    pitch = 0.6 * font.size
    advance = pitch * len(text) if style.fixed_pitch else font.getlength(text)
    pad = 2 + round(0.3 * style.height)  # letters may extend beyond their advance width
    image = Image.new("L", (int(np.ceil(advance)) + 2 * pad, ascent + descent + 2 * pad))
    draw, baseline = ImageDraw.Draw(image), ascent + pad
    if style.fixed_pitch:
        for i, (letter, length) in enumerate(zip(text, lengths, strict=True)):
            draw.text((pad + pitch * i + (pitch - length) / 2, baseline), letter, fill=255, font=font, anchor="ls")
    else:
        draw.text((pad, baseline), text, fill=255, font=font, anchor="ls")
    coverage = np.asarray(image)
    columns, rows = (np.flatnonzero((coverage >= _INK_SHARE * coverage.max()).any(axis)) for axis in (0, 1))
    left, right, top, bottom = columns[0], columns[-1] + 1, rows[0], rows[-1] + 1
    middle = (left + right) // 2
    box = (float(left - middle), float(top - baseline), float(right - middle), float(bottom - baseline))
    return Run(text, coverage, (float(middle), float(baseline)), box)


class Curve(Protocol):
    """A smooth map of the plane and its exact inverse; points are (..., 2)."""

    def bend(self, points: Points) -> Points:
        """Returns the points that flat points are moved to."""

    def flatten(self, points: Points) -> Points:
        """Returns the flat points that `bend` moves to these points."""


@dataclass(frozen=True)
class Straight:
    """Moves the origin to (x, y)."""

    x: float
    y: float

    def bend(self, points: Points) -> Points:
        return points + np.array([self.x, self.y])

    def flatten(self, points: Points) -> Points:
        return points - np.array([self.x, self.y])


@dataclass(frozen=True)
class Arc:
    """Lays the x axis on a circle through (x, y): a hill for a positive radius, a valley for a negative one."""

    x: float
    y: float
    radius: float

    def bend(self, points: Points) -> Points:
        angle, distance = points[..., 0] / self.radius, self.radius - points[..., 1]
        centre = np.array([self.x, self.y + self.radius])
        return centre + distance[..., None] * np.stack([np.sin(angle), -np.cos(angle)], -1)

    def flatten(self, points: Points) -> Points:
        sign = np.sign(self.radius)
        offset = sign * (points - np.array([self.x, self.y + self.radius]))
        angle = np.arctan2(offset[..., 0], -offset[..., 1])
        distance = sign * np.linalg.norm(offset, axis=-1)
        return np.stack([angle * self.radius, self.radius - distance], -1)


@dataclass(frozen=True)
class Wave:
    """Moves the origin to (x, y) and lays the x axis on a sine."""

    x: float
    y: float
    amplitude: float
    length: float
    phase: float

    def bend(self, points: Points) -> Points:
        return np.stack([points[..., 0] + self.x, points[..., 1] + self.y + self.height(points[..., 0])], -1)

    def flatten(self, points: Points) -> Points:
        x = points[..., 0] - self.x
        return np.stack([x, points[..., 1] - self.y - self.height(x)], -1)

    def height(self, x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Returns how far down the sine moves points at x."""
        if self.amplitude == 0:
            return np.zeros_like(x)
        return self.amplitude * np.sin(2 * np.pi * x / self.length + self.phase)


def pixel_centres(left: int, top: int, width: int, height: int) -> Points:
    """Returns the centres (height, width, 2) of the pixels of a rectangle."""
    x, y = np.meshgrid(np.arange(left, left + width) + 0.5, np.arange(top, top + height) + 0.5)
    return np.stack([x, y], -1)


def sample(image: npt.NDArray[np.uint8], points: Points, border: int = cv2.BORDER_CONSTANT) -> npt.NDArray[np.uint8]:
    """Returns the image at points (h, w, 2), by bilinear interpolation; black outside by default."""
    maps = (points - 0.5).astype(np.float32)  # in OpenCV, pixel centres are whole numbers
    return cv2.remap(image, maps, None, cv2.INTER_LINEAR, borderMode=border)
