"""Sets text, rules, bar codes and signs on a page from top to bottom."""

from dataclasses import dataclass, replace

import numpy as np

from ocr.synthetic import phrases, texture
from ocr.synthetic.config import SyntheticConfig
from ocr.synthetic.ornaments import draw_rule_, sign_mask
from ocr.synthetic.page import Page, Print
from ocr.synthetic.text import Arc, Curve, Run, Straight, Style, Wave, draw_run
from ocr.synthetic.texture import Color, FloatImage, Size

MAX_ASPECT = 12.5
"""Largest width of a run in heights of a capital letter; longer texts lose words. A polygon is at most 11 times as wide as high,
because it includes a margin and the descenders."""
_MIN_GAP = 1.6
"""Smallest gap between two runs of a line in heights of a capital letter: twice a space, so that runs stay apart."""


@dataclass(frozen=True)
class Look:
    """Typefaces, colours and line spacing of one sheet."""

    body: Style
    title_face: str
    ink: Color
    accent: Color
    """Colour of titles and signs."""
    line_spacing: float
    """Distance between baselines in heights of a capital letter."""

    def style(self, scale: float) -> Style:
        """Returns the style of text that is `scale` times as high as running text; from 1.05 on it is a title."""
        height = self.body.height * scale
        return Style(self.title_face, height) if scale > 1.05 else replace(self.body, height=height)

    def pitch(self, scale: float = 1.0) -> float:
        """Returns the distance between baselines in pixels."""
        return scale * self.body.height * self.line_spacing


class Typesetter:
    """Fills a page line by line.

    Args:
        paper: (H, W, 3); rules, bar codes and signs are drawn into it, in place.
        margin: width in pixels that stays free on every side.
    """

    def __init__(self, rng: np.random.Generator, config: SyntheticConfig, paper: FloatImage, margin: float, look: Look):
        self._rng, self._config, self._look = rng, config, look
        self._paper = paper
        self._height, self._width = paper.shape[:2]
        self._left, self._right = margin, self._width - margin
        self._bottom = self._height - margin
        self._prints: list[Print] = []
        self.y = margin
        """Top of the next line, in pixels from the top of the page."""

    @property
    def lines_left(self) -> float:
        """Free room below, in lines of running text."""
        return (self._bottom - self.y) / self._look.pitch()

    def skip(self, lines: float) -> None:
        """Leaves `lines` lines of running text free."""
        self.y += lines * self._look.pitch()

    def line(self, left: str, right: str = "", scale: float = 1.0) -> None:
        """Sets one run at the left and one at the right. The left text loses words until both fit."""
        baseline = self._take_line(scale)
        if baseline is None:
            return
        style, end = self._look.style(scale), self._right
        if run := _fitting_run(right, style, end - self._left):
            self._print(run, Straight(round(end - run.width / 2), baseline), scale)
            end -= run.width + _MIN_GAP * style.height
        if run := _fitting_run(left, style, end - self._left):
            self._print(run, Straight(round(self._left + run.width / 2), baseline), scale)

    def centred(self, text: str, scale: float = 1.0) -> None:
        """Sets one run in the middle. The text loses words until it fits."""
        baseline = self._take_line(scale)
        run = _fitting_run(text, self._look.style(scale), self._right - self._left)
        if baseline is not None and run:
            self._print(run, Straight(round((self._left + self._right) / 2), baseline), scale)

    def curved_line(self, text: str, scale: float) -> None:
        """Sets one run in the middle on a hill, in a valley, or on a wave."""
        run = _fitting_run(text, self._look.style(scale), self._right - self._left)
        depth = self._rng.uniform(0.06, 0.14) * run.width if run else 0.0
        highest = self._take_line(scale)
        if run is None or highest is None or self.y + depth > self._bottom:
            return
        middle, radius = (self._left + self._right) / 2, run.width**2 / (8 * depth)  # of a shallow arc
        wave = Wave(middle, highest + depth / 2, depth / 2, run.width, self._rng.uniform(0, 2 * np.pi))
        curves: list[Curve] = [Arc(middle, highest, radius), Arc(middle, highest + depth, -radius), wave]
        self._print(run, curves[self._rng.integers(3)], scale)
        self.y += depth

    def fine_print(self) -> None:
        """Sets a line too small to read."""
        style = Style(self._look.body.face, 0.32 * self._look.body.height)
        run = draw_run(phrases.pick(self._rng, phrases.FINE_PRINT), style)
        if self.lines_left < 1 or run.width > self._right - self._left:
            return
        self.skip(0.5)
        place = Straight(round((self._left + self._right) / 2), round(self.y + style.height))
        self._prints.append(Print(run, place, self._look.ink, is_legible=False))
        self.y += 3 * style.height

    def rule(self) -> None:
        """Draws a line across the page: solid, double or dashed."""
        if self.lines_left < 1:
            return
        y, kind = round(self.y + 0.3 * self._look.pitch()), int(self._rng.integers(3))
        draw_rule_(
            self._paper[:, round(self._left) : round(self._right)], y, kind, self._look.body.height, self._look.ink
        )
        self.skip(0.6)

    def bar_code(self) -> None:
        """Draws a bar code and sets its number below."""
        lines = self._rng.uniform(1.6, 2.6)
        if self.lines_left < lines + 1.5:
            return
        width = int((self._right - self._left) * self._rng.uniform(0.5, 0.75))
        left, top = int((self._width - width) / 2), int(self.y + 0.3 * self._look.pitch())
        module = max(1, round(self._width / 260))
        bars = np.repeat(self._rng.random(width // module + 1) < 0.5, module)[:width]
        patch = self._paper[top : top + int((lines - 0.3) * self._look.pitch()), left : left + width]
        patch[:, bars] = 0.15 * patch[:, bars] + 0.85 * np.array(self._look.ink, np.float32)
        self.skip(lines)
        self.centred(phrases.number(self._rng, 10))

    def sign(self, lines: float) -> None:
        """Draws a simple sign in the accent colour: ring, triangle, arrow, star or stripes."""
        if self.lines_left < lines + 1:
            return
        size = int(lines * self._look.pitch())
        mask = sign_mask(int(self._rng.integers(5)), int(0.85 * size))
        top = int(self.y + 0.05 * size)
        left = int((self._left + self._right - mask.shape[1]) / 2)
        if left < 0:
            return
        patch = self._paper[top : top + mask.shape[0], left : left + mask.shape[1]]
        patch += mask[..., None] * (np.array(self._look.accent, np.float32) - patch)
        self.y += size

    def page(self) -> Page:
        """Returns the page with everything set so far."""
        size: Size = (self._height, self._width)
        strength = self._rng.uniform(0.85, 1.0) + 0.05 * texture.noise(self._rng, size, 60)
        return Page(self._paper, np.clip(strength, 0.6, 1.0).astype(np.float32), self._prints)

    def _take_line(self, scale: float) -> float | None:
        """Reserves the next line and returns its baseline, or None if the page is full."""
        pitch = self._look.pitch(scale)
        if self.y + pitch > self._bottom:
            return None
        baseline = round(self.y + 0.5 * (pitch + self._look.style(scale).height))
        self.y += pitch
        return baseline

    def _print(self, run: Run, curve: Curve, scale: float) -> None:
        is_legible = self._rng.random() >= self._config.illegible_share
        if not is_legible:
            run = run.smeared() if self._rng.random() < 0.5 else run.struck_out(self._rng)
        color = self._look.accent if scale > 1.05 else self._look.ink
        self._prints.append(Print(run, curve, color, is_legible))


def _fitting_run(text: str, style: Style, room: float) -> Run | None:
    """Returns the run of as many of the text's first words as fit; None if none fits."""
    words = text.split()
    while words:
        run = draw_run(" ".join(words), style)
        if run.width <= min(room, MAX_ASPECT * style.height):
            return run
        words.pop()
    return None
