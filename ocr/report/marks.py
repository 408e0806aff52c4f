"""Outlines over an image: their kinds, colours and lines; and a picture of an image drawn with Pillow.

The colours are those of Okabe and Ito, and a dark grey: people with colour-blindness tell all of them apart. To them a lighter grey
looks like the pink and the green. Solid and dashed lines are detections, dotted lines are annotations, so two outlines in one place
do not hide each other.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from ocr.metrics.icdar import TargetRegions
from ocr.metrics.regions import flat_polygons
from ocr.metrics.review import FALSE_ALARM, HIT, IGNORED, JOINED, LOOSE, MISSED, SPLIT, Review, review_image
from ocr.polygons import FloatArray
from ocr.postprocess.boxes import Detections
from ocr.report.reviewed import hmean_of

COLOURS = {
    HIT: "#0072B2",
    LOOSE: "#0072B2",
    MISSED: "#D55E00",
    FALSE_ALARM: "#CC79A7",
    JOINED: "#E69F00",
    SPLIT: "#009E73",
    IGNORED: "#4D4D4D",
}
NAMES = {
    HIT: "hit",
    LOOSE: "loose hit",
    MISSED: "missed",
    FALSE_ALARM: "false alarm",
    JOINED: "joined",
    SPLIT: "split",
    IGNORED: "don\u2019t-care",
}
_STRIP = 22
"""Height in pixels of a line of text under a picture."""


class Mark(NamedTuple):
    """An outline over an image."""

    letter: str
    """Kind of the outline, as a review writes it."""
    is_detection: bool
    polygon: FloatArray
    """(n, 2), in pixels of the upright image."""
    score: float | None
    """Score of a detection; None: an annotation, or not known."""
    iou: float | None
    """Largest IoU of a detection with a text."""


def marks_of(
    review: Review, detections: Detections, truth: Sequence[FloatArray], *, has_scores: bool = True
) -> Iterator[Mark]:
    """Yields the outlines of an image: its annotations first, then its detections.

    Args:
        detections, truth: in pixels of the upright image, in the order of the review's letters.
        has_scores: whether the scores of the detections are known.
    """
    for letter, polygon in zip(review.texts, truth, strict=True):
        yield Mark(letter, False, polygon, None, None)
    columns = zip(review.found, detections.polygons, detections.scores.tolist(), review.ious, strict=True)
    for letter, polygon, score, iou in columns:
        yield Mark(letter, True, polygon, score if has_scores else None, iou)


def reviewed(
    detections: Detections,
    truth: Sequence[FloatArray],
    ignore: npt.NDArray[np.bool_],
    iou_thresholds: Sequence[float],
) -> tuple[float, Review]:
    """Returns the hmean of an image at the looser threshold, and its review.

    Args:
        detections, truth: in pixels of the upright image.
        ignore: don't-care flags of the truth.
    """
    counts, review = review_image(
        flat_polygons(detections.polygons, "prediction"),
        detections.scores,
        0,
        TargetRegions.from_polygons(truth, ignore),
        iou_thresholds,
        np.zeros(1),
        0.0,
    )
    return hmean_of(counts[0]), review


def draw_reviewed(pixels: npt.NDArray[np.uint8], marks: Sequence[Mark], caption: str, longest_side: int) -> Image.Image:
    """Returns the upright image with its outlines, and under it the caption and what the colours mean.

    Args:
        longest_side: largest width or height of the image in the picture, in pixels.
    """
    picture = Image.fromarray(pixels).convert("RGB")
    original_size = picture.size
    picture.thumbnail((longest_side, longest_side))
    scale = np.divide(picture.size, original_size)
    canvas = ImageDraw.Draw(picture)
    for mark in marks:
        if mark.is_detection or mark.letter not in (HIT, LOOSE):  # the detection of a hit shows where the text is
            _outline(canvas, mark, scale)
    return _with_lines(picture, caption, {mark.letter for mark in marks})


def _outline(canvas: ImageDraw.ImageDraw, mark: Mark, scale: npt.NDArray[np.float64]) -> None:
    points = np.concatenate([mark.polygon, mark.polygon[:1]]) * scale
    if mark.is_detection and mark.letter != LOOSE:
        canvas.line([tuple(point) for point in points], fill=COLOURS[mark.letter], width=2)
        return
    step, drawn = (8.0, 5.0) if mark.is_detection else (5.0, 2.5)
    for start, end in pairwise(points):
        length = float(np.hypot(*(end - start)))
        for at in np.arange(0, length, step):
            pair = start + (end - start) * np.array([[at], [min(at + drawn, length)]]) / max(length, 1e-6)
            canvas.line([tuple(point) for point in pair], fill=COLOURS[mark.letter], width=2)


def _with_lines(picture: Image.Image, caption: str, letters: set[str]) -> Image.Image:
    """Returns the picture with a line of text and a legend below it."""
    font = ImageFont.load_default(14)
    paper = Image.new("RGB", (max(picture.width, 480), picture.height + 2 * _STRIP), "white")
    paper.paste(picture, (0, 0))
    canvas = ImageDraw.Draw(paper)
    canvas.text((4, picture.height + 2), caption, "black", font)
    x = 4.0
    for letter, name in NAMES.items():
        if letter in letters:
            canvas.rectangle([x, picture.height + _STRIP + 6, x + 12, picture.height + _STRIP + 16], COLOURS[letter])
            canvas.text((x + 16, picture.height + _STRIP + 2), name, "black", font)
            x += 30 + font.getlength(name)
    return paper
