"""Charts of an evaluation as SVG: scores by box_thresh, and what happened to the texts by their kind."""

import math
from collections.abc import Iterator, Sequence
from html import escape
from typing import NamedTuple

from ocr.metrics.review import HIT, JOINED, MISSED, SPLIT
from ocr.report.findings import FATES, Fates, Sweep

_SHOWN_RANGE = 0.3
"""Scores this far below the best hmean are cut off."""
_CLASSES = {HIT: "hit", JOINED: "joined", SPLIT: "split", MISSED: "missed"}


class _Frame(NamedTuple):
    """Where the values of a chart are in its picture."""

    size: tuple[int, int]
    """(W, H) of the picture in pixels."""
    span: tuple[float, float]
    """Thresholds at the left and the right end."""
    low: float
    high: float
    """Scores at the lower and the upper end."""

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, right, top and bottom of the lines."""
        return 44.0, self.size[0] - 16.0, 14.0, self.size[1] - 36.0

    def x(self, threshold: float) -> float:
        """Returns where a threshold is."""
        left, right, _, _ = self.box
        return left + (right - left) * (threshold - self.span[0]) / max(self.span[1] - self.span[0], 1e-9)

    def y(self, value: float) -> float:
        """Returns where a score is."""
        _, _, top, bottom = self.box
        return bottom - (bottom - top) * (value - self.low) / (self.high - self.low)


def sweep_chart(sweep: Sweep, present: float, strict: str) -> str:
    """Returns precision, recall and hmean over box_thresh, with the present threshold and the best one.

    The lower end of the scores is cut off, so that small differences near the best threshold can be seen.

    Args:
        strict: name of the stricter IoU threshold, whose hmean is drawn too.
    """
    last = max((at for at, scores in enumerate(sweep.scores[0]) if scores.hmean > 0), default=0)
    last = max(last, sweep.at(present))
    loose, tight = (scores[: last + 1] for scores in sweep.scores[:2])
    lines = {
        "precision": [scores.precision for scores in loose],
        "recall": [scores.recall for scores in loose],
        "strict": [scores.hmean for scores in tight],
        "hmean": [scores.hmean for scores in loose],
    }
    least = max(min(map(min, lines.values())), min(max(lines["hmean"]), max(lines["strict"])) - _SHOWN_RANGE)
    high = max(math.ceil(max(map(max, lines.values())) * 20) / 20, 0.05)
    low = min(max(math.floor(least * 10) / 10, 0.0), high - 0.05)
    thresholds = sweep.thresholds[: last + 1].tolist()
    frame = _Frame(
        (640, 320), (thresholds[0], float(sweep.thresholds[min(max(last, 1), len(sweep.thresholds) - 1)])), low, high
    )
    parts = _axes(frame)
    _, _, top, bottom = frame.box
    for kind, at in (("now", present), ("best", float(sweep.thresholds[sweep.best(present)]))):
        if frame.span[0] <= at <= frame.span[1]:
            parts.append(
                f'<line class="{kind}" x1="{frame.x(at):.1f}" x2="{frame.x(at):.1f}" y1="{top}" y2="{bottom}"/>'
            )
    for name, line in lines.items():
        for run in _runs_above(low, list(zip(thresholds, line, strict=True))):
            points = " ".join(f"{frame.x(at):.1f},{frame.y(value):.1f}" for at, value in run)
            parts.append(f'<polyline class="line {name}" points="{points}"/>')
    label = "Precision, recall and hmean over box_thresh"
    return (
        f'<svg class="chart" viewBox="0 0 {frame.size[0]} {frame.size[1]}" role="img" aria-label="{label}">'
        f'{"".join(parts)}</svg><p class="soft lines">{_key(strict)}</p>'
    )


def _axes(frame: _Frame) -> list[str]:
    left, right, _, bottom = frame.box
    step = next(step for step in (0.01, 0.02, 0.05, 0.1, 0.2) if (frame.high - frame.low) / step <= 10.001)
    parts = []
    for number in range(math.floor((frame.high - frame.low) / step + 1e-9) + 1):
        value = frame.low + number * step
        y = frame.y(value)
        parts.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.2f}</text>')
    for tick in range(math.ceil(frame.span[0] * 20 - 1e-9), math.floor(frame.span[1] * 20 + 1e-9) + 1):
        parts.append(
            f'<text x="{frame.x(tick / 20):.1f}" y="{bottom + 16}" text-anchor="middle">{tick / 20:.2f}</text>'
        )
    parts.append(f'<text x="{(left + right) / 2:.0f}" y="{frame.size[1] - 4}" text-anchor="middle">box_thresh</text>')
    return parts


def _key(strict: str) -> str:
    names = {"hmean": "hmean", "precision": "precision", "recall": "recall", "strict": f"hmean at {strict}"}
    names |= {"now": "present threshold", "best": "best threshold"}
    sample = '<svg class="chart sample" viewBox="0 0 30 8"><line class="line {}" x1="0" x2="30" y1="4" y2="4"/></svg>'
    return "".join(f"<span>{sample.format(kind)}{name}</span>" for kind, name in names.items())


def _runs_above(low: float, points: Sequence[tuple[float, float]]) -> Iterator[list[tuple[float, float]]]:
    """Yields the parts of a line of (x, y) that are not below `low`."""
    run: list[tuple[float, float]] = []
    for place, (x, y) in enumerate(points):
        if place and (y < low) != (points[place - 1][1] < low):
            before_x, before_y = points[place - 1]
            run.append((before_x + (x - before_x) * (low - before_y) / (y - before_y), low))
        if y >= low:
            run.append((x, y))
        elif run:
            yield run
            run = []
    if run:
        yield run


def fates_chart(fates: Fates) -> str:
    """Returns what happened to the texts of each bin: a bar as long as the share, with recall and number of texts beside it."""
    row, left, right, width = 20, 118, 330, 490
    used = [place for place in range(len(fates.labels)) if fates.counts[:, place].sum()]
    parts = []
    for line, place in enumerate(range(min(used, default=0), max(used, default=-1) + 1)):
        counts = fates.counts[:, place].tolist()
        total, top = sum(counts), line * row + 2
        parts.append(f'<text x="{left - 8}" y="{top + 12}" text-anchor="end">{escape(fates.labels[place])}</text>')
        parts.append(
            f'<rect class="track" x="{left}" y="{top}" width="{right - left}" height="{row - 5}" opacity="0.4"/>'
        )
        start = float(left)
        for fate, count in zip(FATES, counts, strict=True):
            part = (right - left) * count / max(total, 1)
            if count:
                parts.append(
                    f'<rect class="{_CLASSES[fate]}" x="{start:.1f}" y="{top}" width="{part:.1f}" height="{row - 5}">'
                    f"<title>{_CLASSES[fate]}: {count:,} of {total:,}</title></rect>"
                )
            start += part
        note = f"{total - counts[0]:,} of {total:,} not found" if total else "no text"
        parts.append(f'<text x="{right + 8}" y="{top + 12}">{note}</text>')
    height = row * max(len(parts) and (max(used, default=0) - min(used, default=0) + 1), 1)
    return (
        f'<figure><b>{escape(fates.title)}</b><svg class="fates" viewBox="0 0 {width} {height}" role="img">'
        f"{''.join(parts)}</svg></figure>"
    )
