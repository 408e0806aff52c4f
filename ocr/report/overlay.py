"""An image of the report: a picture with its outlines as SVG, in layers that the page switches on and off."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from ocr.metrics.review import HIT, LOOSE
from ocr.polygons import FloatArray
from ocr.report.html import data_url
from ocr.report.marks import NAMES, Mark

LAYERS = {
    "hit": "hit",
    "missed": "missed",
    "false": "false alarm",
    "joined": "joined",
    "split": "split",
    "ignored": "don\u2019t-care",
    "truth": "annotations of hits",
    "below": "below box_thresh",
    "scores": "scores",
    "map": "probability map",
}
"""Class and name of each layer."""
SHOWN_AT_FIRST = ("hit", "missed", "false", "joined", "split", "scores")
LAYER_OF = {"h": "hit", "l": "hit", "m": "missed", "f": "false", "j": "joined", "s": "split", "i": "ignored"}
"""Class of the layer of each kind of outline, a letter of a review."""


@dataclass(frozen=True)
class Overlay:
    """Outlines and scores to draw over an image."""

    size: tuple[int, int]
    """(H, W) of the upright image."""
    marks: Sequence[Mark]
    below: Sequence[tuple[FloatArray, float]] = ()
    """Polygons and scores of the best detections below box_thresh."""
    png: bytes | None = None
    """The probability map; None: not kept."""


def picture(name: str, jpeg: bytes) -> str:
    """Returns a picture for `view`, which several views can share.

    Args:
        name: identifies the picture in the page.
    """
    return (
        '<svg width="0" height="0" style="position:absolute" aria-hidden="true"><defs>'
        f'<symbol id="{name}" viewBox="0 0 1 1" preserveAspectRatio="none">'
        f'<image href="{data_url(jpeg)}" width="1" height="1" preserveAspectRatio="none"/></symbol></defs></svg>'
    )


def view(name: str, overlay: Overlay) -> str:
    """Returns the picture with its layers.

    Args:
        name: of a `picture` in the same page.
    """
    height, width = overlay.size
    box = f'width="{width}" height="{height}"'
    parts = [f'<use href="#{name}" {box}/>']
    if overlay.png is not None:
        href = data_url(overlay.png, "png")
        parts.append(f'<image class="map" href="{href}" {box} preserveAspectRatio="none" opacity="0.8"/>')
    groups = _groups(overlay)
    parts += [f'<g class="{layer}">{"".join(groups[layer])}</g>' for layer in groups if groups[layer]]
    return (
        f'<div class="view" style="aspect-ratio:{width}/{height};--w:{width}px">'
        f'<svg viewBox="0 0 {width} {height}" role="img" preserveAspectRatio="none">{"".join(parts)}</svg>'
        f'<div class="scores">{"".join(_scores(overlay))}</div></div>'
    )


def _groups(overlay: Overlay) -> dict[str, list[str]]:
    """Returns the outlines of each layer. Those of hits come first, so that errors lie over them."""
    groups: dict[str, list[str]] = {layer: [] for layer in LAYERS if layer not in ("scores", "map")}
    for polygon, score in overlay.below:
        groups["below"].append(_outline(polygon, "found", f"below box_thresh, score {score:.2f}"))
    for mark in overlay.marks:
        is_of_hit = not mark.is_detection and mark.letter in (HIT, LOOSE)
        kind = ("loose" if mark.letter == LOOSE else "found") if mark.is_detection else "text"
        groups["truth" if is_of_hit else LAYER_OF[mark.letter]].append(_outline(mark.polygon, kind, _title(mark)))
    return groups


def _outline(polygon: FloatArray, kind: str, title: str) -> str:
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in np.asarray(polygon, np.float64).tolist())
    halo = f'<polygon class="halo" points="{points}"/>'  # keeps the line visible on a dark background
    return f'{halo}<polygon class="{kind}" points="{points}"><title>{escape(title)}</title></polygon>'


def _title(mark: Mark) -> str:
    if not mark.is_detection:
        return f"annotation: {NAMES[mark.letter]}"
    parts = [f"detection: {NAMES[mark.letter]}"]
    parts += [] if mark.score is None else [f"score {mark.score:.2f}"]
    parts += [] if not mark.iou else [f"largest IoU {mark.iou:.2f}"]
    return ", ".join(parts)


def _scores(overlay: Overlay) -> list[str]:
    """Returns the scores as text at the upper right of their outlines. Its size does not depend on that of the picture."""
    height, width = overlay.size
    scored = [(mark.polygon, mark.score, LAYER_OF[mark.letter]) for mark in overlay.marks if mark.score is not None]
    scored += [(polygon, score, "below") for polygon, score in overlay.below]
    texts = []
    for polygon, score, layer in scored:
        x, y = polygon[int(np.argmax(polygon[:, 0] - polygon[:, 1]))].tolist()
        at = f"left:{100 * x / width:.2f}%;top:{100 * y / height:.2f}%"
        texts.append(f'<i class="{layer}" style="{at}">{f"{score:.2f}".removeprefix("0")}</i>')
    return texts
