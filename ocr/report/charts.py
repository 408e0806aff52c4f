"""Charts of an evaluation as SVG: scores by box_thresh, and what happened to the texts by their kind."""

import math
from html import escape

from ocr.metrics.review import HIT, JOINED, MISSED, SPLIT
from ocr.report.findings import FATES, Fates, Sweep

_SHOWN_RANGE = 0.3
"""Scores this far below the best hmean are cut off."""
_CLASSES = {HIT: "hit", JOINED: "joined", SPLIT: "split", MISSED: "missed"}


def sweep_chart(sweep: Sweep, present: float, strict: str, size: tuple[int, int] = (640, 320)) -> str:
    """Returns precision, recall and hmean over box_thresh, with the present threshold and the best one.

    The lower end of the scores is cut off, so that small differences near the best threshold can be seen.

    Args:
        strict: name of the stricter IoU threshold, whose hmean is drawn too.
    """
    width, height = size
    left, right, top, bottom = 44, width - 16, 14, height - 36
    last = max((at for at, scores in enumerate(sweep.scores[0]) if scores.hmean > 0), default=0)
    loose, tight = (scores[: last + 1] for scores in sweep.scores[:2])
    lines = {
        "precision": [scores.precision for scores in loose],
        "recall": [scores.recall for scores in loose],
        "strict": [scores.hmean for scores in tight],
        "hmean": [scores.hmean for scores in loose],
    }
    best = max(lines["hmean"])
    least = max(min(map(min, lines.values())), min(best, max(lines["strict"])) - _SHOWN_RANGE)
    high = max(math.ceil(max(map(max, lines.values())) * 20) / 20, 0.05)
    low = min(max(math.floor(least * 20) / 20, 0.0), high - 0.05)
    begin, end = float(sweep.thresholds[0]), float(sweep.thresholds[max(last, 1)])

    def x(threshold: float) -> float:
        return left + (right - left) * (threshold - begin) / max(end - begin, 1e-9)

    def y(value: float) -> float:
        return bottom - (bottom - top) * (max(value, low) - low) / (high - low)

    parts = []
    step = next(step for step in (0.01, 0.02, 0.05, 0.1, 0.2) if (high - low) / step <= 10.001)
    for number in range(round((high - low) / step) + 1):
        value = low + number * step
        parts.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>')
        parts.append(f'<text x="{left - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.2f}</text>')
    for tick in range(math.ceil(begin * 20 - 1e-9), math.floor(end * 20 + 1e-9) + 1):
        parts.append(f'<text x="{x(tick / 20):.1f}" y="{bottom + 16}" text-anchor="middle">{tick / 20:.2f}</text>')
    parts.append(f'<text x="{(left + right) / 2:.0f}" y="{height - 4}" text-anchor="middle">box_thresh</text>')
    marked = {"now": present, "best": float(sweep.thresholds[sweep.best(present)])}
    for kind, at in marked.items():
        if begin <= at <= end:
            parts.append(f'<line class="{kind}" x1="{x(at):.1f}" x2="{x(at):.1f}" y1="{top}" y2="{bottom}"/>')
    for name, line in lines.items():
        thresholds = sweep.thresholds[: last + 1].tolist()
        points = " ".join(f"{x(at):.1f},{y(value):.1f}" for at, value in zip(thresholds, line, strict=True))
        parts.append(f'<polyline class="line {name}" points="{points}"/>')
    label = "Precision, recall and hmean over box_thresh"
    names = {"hmean": "hmean", "precision": "precision", "recall": "recall", "strict": f"hmean at {strict}"}
    names |= {"now": "present threshold", "best": "best threshold"}
    sample = '<svg class="chart sample" viewBox="0 0 30 8"><line class="line {}" x1="0" x2="30" y1="4" y2="4"/></svg>'
    keys = "".join(f"<span>{sample.format(kind)}{name}</span>" for kind, name in names.items())
    return (
        f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="{label}">{"".join(parts)}</svg>'
        f'<p class="soft lines">{keys}</p>'
    )


def fates_chart(fates: Fates) -> str:
    """Returns what happened to the texts of each bin: a bar as long as the share, with recall and number of texts beside it."""
    row, left, right, width = 20, 118, 330, 470
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
