"""Sets runs of text, rules and pictures on a page from top to bottom."""

from dataclasses import dataclass, replace

import cv2
import numpy as np

from ocr.synthetic import phrases, texture
from ocr.synthetic.config import SyntheticConfig
from ocr.synthetic.page import Page, Print
from ocr.synthetic.text import Arc, Curve, Run, Straight, Style, Wave, draw_run
from ocr.synthetic.texture import Color, FloatImage, Size

MAX_ASPECT = 12.5
"""Greatest width of a run, in heights of a capital letter; longer texts lose words. A polygon is up to 11 times as wide
as high, for it has its margin and holds the descenders."""
_MIN_GAP = 1.6  # between two runs of one line, in heights of a capital letter: twice a space, so that runs stay apart


@dataclass(frozen=True)
class Look:
    """What the lines of one sheet have in common."""

    body: Style
    title_face: str
    ink: Color
    accent: Color
    """Colour of titles and pictures."""
    line_spacing: float
    """From baseline to baseline, in heights of a capital letter."""


class Typesetter:
    """A page in the making and the height at which its next line goes."""

    def __init__(self, rng: np.random.Generator, config: SyntheticConfig, paper: FloatImage, margin: float, look: Look):
        self._rng, self._config, self._look = rng, config, look
        self._paper = paper
        self._height, self._width = paper.shape[:2]
        self._left, self._right = margin, self._width - margin
        self._bottom = self._height - margin
        self._prints: list[Print] = []
        self.y = margin
        """Everything above is taken, in pixels."""

    @property
    def lines_left(self) -> float:
        """Room below, in lines of running text."""
        return (self._bottom - self.y) / self._pitch(1.0)

    def skip(self, lines: float) -> None:
        """Leaves room."""
        self.y += lines * self._pitch(1.0)

    def line(self, left: str, right: str = "", scale: float = 1.0) -> None:
        """A line of two runs, at the left and at the right side. The left text loses words until both fit."""
        baseline = self._take_line(scale)
        if baseline is None:
            return
        style, end = self._style(scale), self._right
        if run := self._fitting(right, style, end - self._left):
            self._print(run, Straight(round(end - run.width / 2), baseline), scale)
            end -= run.width + _MIN_GAP * style.height
        if run := self._fitting(left, style, end - self._left):
            self._print(run, Straight(round(self._left + run.width / 2), baseline), scale)

    def centred(self, text: str, scale: float = 1.0) -> None:
        """A line of one run in the middle. The text loses words until it fits."""
        baseline = self._take_line(scale)
        run = self._fitting(text, self._style(scale), self._right - self._left)
        if baseline is not None and run:
            self._print(run, Straight(round((self._left + self._right) / 2), baseline), scale)

    def curved_line(self, text: str, scale: float) -> None:
        """One line in the middle, on a hill, in a valley, or on a wave."""
        run = self._fitting(text, self._style(scale), self._right - self._left)
        depth = self._rng.uniform(0.06, 0.14) * run.width if run else 0.0
        highest = self._take_line(scale)
        if run is None or highest is None or self.y + depth > self._bottom:
            return
        middle, radius = (self._left + self._right) / 2, run.width**2 / (8 * depth)  # of a shallow arc so deep and wide
        wave = Wave(middle, highest + depth / 2, depth / 2, run.width, self._rng.uniform(0, 2 * np.pi))
        curves: list[Curve] = [Arc(middle, highest, radius), Arc(middle, highest + depth, -radius), wave]
        self._print(run, curves[self._rng.integers(3)], scale)
        self.y += depth

    def fine_print(self) -> None:
        """A line too small to read."""
        style = Style(self._look.body.face, 0.32 * self._look.body.height)
        run = draw_run(phrases.pick(self._rng, phrases.FINE_PRINT), style)
        if self.lines_left < 1 or run.width > self._right - self._left:
            return
        self.skip(0.5)
        place = Straight(round((self._left + self._right) / 2), round(self.y + style.height))
        self._prints.append(Print(run, place, self._look.ink, is_legible=False))
        self.y += 3 * style.height

    def rule(self) -> None:
        """A line across the page: solid, double or dashed."""
        if self.lines_left < 1:
            return
        y, kind = round(self.y + 0.3 * self._pitch(1.0)), self._rng.integers(3)
        thickness = max(1, round(self._look.body.height / 11))
        dash = int(self._look.body.height * 0.6)
        for offset in (0, 3 * thickness) if kind == 1 else (0,):
            row = self._paper[y + offset : y + offset + thickness, round(self._left) : round(self._right)]
            inked = np.arange(row.shape[1]) % (2 * dash) < dash if kind == 2 else np.ones(row.shape[1], bool)
            row[:, inked] = 0.4 * row[:, inked] + 0.6 * np.array(self._look.ink, np.float32)
        self.skip(0.6)

    def bar_code(self) -> None:
        """A bar code with its number below."""
        lines = self._rng.uniform(1.6, 2.6)
        if self.lines_left < lines + 1.5:
            return
        width = int((self._right - self._left) * self._rng.uniform(0.5, 0.75))
        left, top = int((self._width - width) / 2), int(self.y + 0.3 * self._pitch(1.0))
        module = max(1, round(self._width / 260))
        bars = np.repeat(self._rng.random(width // module + 1) < 0.5, module)[:width]
        patch = self._paper[top : top + int((lines - 0.3) * self._pitch(1.0)), left : left + width]
        patch[:, bars] = 0.15 * patch[:, bars] + 0.85 * np.array(self._look.ink, np.float32)
        self.skip(lines)
        self.centred(phrases.number(self._rng, 10))

    def picture(self, lines: float) -> None:
        """A simple sign in the accent colour: ring, triangle, arrow, star or stripes."""
        if self.lines_left < lines + 1:
            return
        size = int(lines * self._pitch(1.0))
        mask = _sign(int(self._rng.integers(5)), int(0.85 * size))
        top = int(self.y + 0.05 * size)
        left = int((self._left + self._right - mask.shape[1]) / 2)
        if left < 0:
            return
        patch = self._paper[top : top + mask.shape[0], left : left + mask.shape[1]]
        patch += mask[..., None] * (np.array(self._look.accent, np.float32) - patch)
        self.y += size

    def page(self) -> Page:
        """The page with everything set so far."""
        size: Size = (self._height, self._width)
        strength = self._rng.uniform(0.85, 1.0) + 0.05 * texture.noise(self._rng, size, 60)
        return Page(self._paper, np.clip(strength, 0.6, 1.0).astype(np.float32), self._prints)

    def _pitch(self, scale: float) -> float:
        return scale * self._look.body.height * self._look.line_spacing

    def _take_line(self, scale: float) -> float | None:
        """The baseline of the next line, whose room is then taken; None if the page is full."""
        pitch = self._pitch(scale)
        if self.y + pitch > self._bottom:
            return None
        baseline = round(self.y + 0.5 * (pitch + self._style(scale).height))
        self.y += pitch
        return baseline

    def _style(self, scale: float) -> Style:
        body = self._look.body
        if scale > 1.05:
            return Style(self._look.title_face, body.height * scale)
        return replace(body, height=body.height * scale)

    def _fitting(self, text: str, style: Style, room: float) -> Run | None:
        """The text's first words, as many as fit; None if there are none."""
        words = text.split()
        while words:
            run = draw_run(" ".join(words), style)
            if run.width <= min(room, MAX_ASPECT * style.height):
                return run
            words.pop()
        return None

    def _print(self, run: Run, curve: Curve, scale: float) -> None:
        is_legible = self._rng.random() >= self._config.illegible_share
        if not is_legible:
            run = run.smeared() if self._rng.random() < 0.5 else run.struck_out(self._rng)
        color = self._look.accent if scale > 1.05 else self._look.ink
        self._prints.append(Print(run, curve, color, is_legible))


def _sign(kind: int, size: int) -> FloatImage:
    """(size, size) coverage 0..1 of a sign."""
    mask = np.zeros((size, size), np.uint8)
    middle, thick = size // 2, max(2, size // 9)
    if kind == 0:
        cv2.circle(mask, (middle, middle), middle - thick, (255,), thick, cv2.LINE_AA)
        cv2.line(mask, (size // 4, size // 4), (3 * size // 4, 3 * size // 4), (255,), thick, cv2.LINE_AA)
    elif kind == 1:
        corners = np.array([[middle, thick], [size - thick, size - thick], [thick, size - thick]], np.int32)
        cv2.polylines(mask, [corners], True, (255,), thick, cv2.LINE_AA)
        cv2.line(mask, (middle, size // 3), (middle, 2 * size // 3), (255,), thick, cv2.LINE_AA)
    elif kind == 2:
        cv2.arrowedLine(mask, (thick, middle), (size - thick, middle), (255,), thick, cv2.LINE_AA, tipLength=0.4)
    elif kind == 3:
        angle = np.arange(10) * np.pi / 5
        radius = np.where(np.arange(10) % 2, 0.2, 0.48)[:, None] * size
        corners = (middle + radius * np.stack([np.sin(angle), -np.cos(angle)], -1)).astype(np.int32)
        cv2.fillPoly(mask, [corners], (255,), cv2.LINE_AA)
    else:
        y, x = np.mgrid[:size, :size]
        mask[((x + y) // (2 * thick) % 2 == 0) & (np.abs(y - middle) < size // 4)] = 255
    return (mask / 255).astype(np.float32)
