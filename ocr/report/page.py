"""The HTML file of an evaluation. It holds everything itself: pictures as data, charts and outlines as SVG, style and script."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files

import numpy as np

from ocr.metrics.icdar import MatchCounts, Scores
from ocr.metrics.pooled_counts import MARGIN, PooledCounts, is_clear
from ocr.metrics.review import FALSE_ALARM, HIT, JOINED, LOOSE, MISSED, SPLIT
from ocr.report.charts import fates_chart, sweep_chart
from ocr.report.compare import Change, Comparison
from ocr.report.findings import Findings, Row
from ocr.report.html import document, table
from ocr.report.marks import COLOURS
from ocr.report.overlay import LAYER_OF, LAYERS, SHOWN_AT_FIRST, Overlay, picture, view
from ocr.report.reviewed import errors_of, hmean_of

_SHOWN = ("hmean", "precision", "recall")
"""Scores in the order of the page."""


@dataclass(frozen=True)
class ShownImage:
    """One of the worst images."""

    row: Row
    jpeg: bytes
    overlay: Overlay


@dataclass(frozen=True)
class ShownChange:
    """An image that two runs see differently."""

    change: Change
    jpeg: bytes
    here: Overlay
    there: Overlay


@dataclass(frozen=True)
class ReportPage:
    """Everything that the page says."""

    title: str
    settings: Sequence[tuple[str, str]]
    """Settings that decide the result: key, value."""
    iou_thresholds: tuple[float, float]
    box_thresh: float
    findings: Findings
    more_scores: Sequence[tuple[str, str]]
    """Other scores, such as CLEval and those of each data set: name, value."""
    failed: Sequence[tuple[str, str]]
    """Files that could not be read, with the reason."""
    images: Sequence[ShownImage]
    comparison: Comparison | None = None
    changes: Sequence[ShownChange] = ()


def page(report: ReportPage) -> str:
    """Returns the HTML document."""
    findings = report.findings
    links = [
        ("box_thresh", "box_thresh"),
        ("misses", "what is missed"),
        ("images", "worst images"),
        ("all", "all images"),
    ]
    if report.comparison is not None:
        links.insert(2, ("compare", "comparison"))
    nav = "".join(f'<a href="#{name}">{text}</a>' for name, text in links)
    body = [
        f"<h1>{escape(report.title)}</h1>",
        f"<nav>{nav}</nav>",
        *_summary(report),
        *_sweep(report),
        *_misses(findings),
        *(_comparison(report, report.comparison) if report.comparison is not None else ()),
        *_images(report),
        *_all(report),
    ]
    style = f"{_colours()}\n{_resource('page.css')}"
    return document(report.title, body, style=style, script=_resource("page.js"))


def _colours() -> str:
    """Returns the colours of the layers as variables of the style sheet: --hit, --missed and so on."""
    variables = "".join(f" --{LAYER_OF[letter]}: {colour};" for letter, colour in COLOURS.items())
    return f":root {{{variables} }}"


def _resource(name: str) -> str:
    return files("ocr.report").joinpath(name).read_text()


def _summary(report: ReportPage) -> Iterator[str]:
    findings = report.findings
    for threshold, pooled in zip(report.iou_thresholds, findings.counts.whole, strict=True):
        scores, errors = pooled.scores(), pooled.errors()
        numbers = (_number(name, getattr(scores, name), _of(errors, name), threshold) for name in _SHOWN)
        yield f'<div class="numbers">{"".join(numbers)}</div>'
    if errors is not None:
        yield (
            f'<p class="soft">± is {MARGIN} standard errors: most other sets of {findings.num_images:,} images of the same kind '
            "would score within it. Each image counts as a draw of its own.</p>"
        )
    texts, found = findings.letters, findings.letters_of_found
    _, num_texts, num_found = findings.counts.whole[0].counts()
    rows = [
        ("texts found", _share(texts[HIT] + texts[LOOSE], num_texts)),
        (f"of these loosely, IoU at most {report.iou_thresholds[1]:g}", _share(texts[LOOSE], num_texts)),
        ("texts missed", _share(texts[MISSED], num_texts)),
        ("texts joined with another one by one detection", _share(texts[JOINED], num_texts)),
        ("texts split into several detections", _share(texts[SPLIT], num_texts)),
        ("detections without a text (false alarms)", _share(found[FALSE_ALARM], num_found)),
        ("detections over several texts", f"{found[JOINED]:,}"),
        ("detections of a part of a text", f"{found[SPLIT]:,}"),
    ]
    yield '<div class="columns"><div><h3>What happened to the texts</h3>'
    yield table(rows)
    yield "</div><div><h3>Evaluated</h3>"
    yield table([("images", f"{findings.num_images:,}"), *report.settings, *report.more_scores])
    yield "</div></div>"
    if report.failed:
        yield f"<h3>Images that could not be read ({len(report.failed):,})</h3>"
        yield table(report.failed[:50])


def _number(name: str, score: float, error: float | None, threshold: float) -> str:
    margin = f" <small>± {MARGIN * error:.4f}</small>" if error else ""
    return f"<div><b>{score:.4f}{margin}</b>{name} at IoU {threshold:g}</div>"


def _of(errors: Scores | None, name: str) -> float | None:
    """Returns the standard error of one score."""
    return None if errors is None else float(getattr(errors, name))


def _share(count: int, total: int) -> str:
    return f"{count:,} of {total:,} ({count / max(total, 1):.1%})"


def _sweep(report: ReportPage) -> Iterator[str]:
    sweep, strict = report.findings.sweep, f"IoU {report.iou_thresholds[1]:g}"
    present = sweep.at(report.box_thresh)
    best = sweep.best(report.box_thresh)
    yield '<h2 id="box_thresh">Precision and recall over box_thresh</h2><div class="columns"><div>'
    yield sweep_chart(sweep, report.box_thresh, strict)
    yield "</div><div>"
    if sweep.scores[0][best].hmean > 0:
        yield from _best_threshold(report, present, best, strict)
    else:
        yield "<p>No detection matches a text at any threshold, so none is the best.</p>"
    is_tenth = np.isclose(sweep.thresholds * 10, np.round(sweep.thresholds * 10))
    chosen = sorted({0, present, best, *np.flatnonzero(is_tenth).tolist()})
    yield '<table class="plain"><thead><tr><th>box_thresh</th><th>precision</th><th>recall</th><th>hmean</th>'
    yield f"<th>hmean at {strict}</th><th></th></tr></thead><tbody>"
    for at in chosen:
        scores, note = sweep.scores[0][at], "present" if at == present else ""
        if at == best and scores.hmean > 0:
            note = "present, best" if at == present else "best"
        numbers = (*scores, sweep.scores[1][at].hmean)
        cells = "".join(f'<td class="num">{number:.4f}</td>' for number in numbers)
        yield f'<tr><td class="num">{sweep.thresholds[at]:g}</td>{cells}<td>{note}</td></tr>'
    yield "</tbody></table></div></div>"


def _best_threshold(report: ReportPage, present: int, best: int, strict: str) -> Iterator[str]:
    sweep = report.findings.sweep
    gain = sweep.scores[0][best].hmean - sweep.scores[0][present].hmean
    if gain > 0:
        yield f"<p>The best threshold for these images gains <b>{gain:.4f}</b> of hmean at IoU {report.iou_thresholds[0]:g}:</p>"
    else:
        yield "<p>The present threshold is the best one for these images:</p>"
    yield f'<p class="paste"><code>postprocess.box_thresh={sweep.thresholds[best]:g}</code>'
    yield '<button class="plain copy">copy</button></p>'
    strictest = sweep.best(report.box_thresh, 1)
    yield (
        f'<p class="soft">hmean at {strict} is highest at {sweep.thresholds[strictest]:g}. A threshold suits the images that it '
        "was chosen on; check it on others before you report a score with it.</p>"
    )


def _misses(findings: Findings) -> Iterator[str]:
    yield '<h2 id="misses">What is missed</h2>'
    yield (
        '<p class="soft key"><i style="background:var(--hit)"></i>found <i style="background:var(--joined)"></i>joined '
        '<i style="background:var(--split)"></i>split <i style="background:var(--missed)"></i>missed. A bar is the share of the '
        "texts of that kind.</p>"
    )
    yield f'<div class="kinds">{"".join(map(fates_chart, findings.fates))}</div>'


def _images(report: ReportPage) -> Iterator[str]:
    yield f'<h2 id="images">Images, worst first ({len(report.images):,} of {report.findings.num_images:,})</h2>'
    if not report.images:
        return
    yield (
        '<p class="soft">The lowest hmean comes first, and of equal ones the most errors. Solid lines are detections, dashed ones '
        f"are loose (IoU at most {report.iou_thresholds[1]:g}), dotted ones are annotations. Point at an outline for its score and "
        "IoU.</p>"
    )
    if not report.changes:
        yield _toolbar()
    yield '<div class="shots">'
    for number, shown in enumerate(report.images):
        name = f"p{number}"
        yield f'<figure class="shot" id="i{number}"><figcaption><button class="plain enlarge">larger</button>'
        yield f"<b>{escape(shown.row.name)}</b>{escape(_said(shown.row, report.iou_thresholds[1]))}</figcaption>"
        yield f'{picture(name, shown.jpeg)}<div class="frame">{view(name, shown.overlay)}</div></figure>'
    yield "</div>"


def _said(row: Row, strict: float) -> str:
    """Returns what happened in an image as a line."""
    loose, tight = row.matches[:2]
    parts = [f"hmean {hmean_of(loose):.2f} ({hmean_of(tight):.2f} at IoU {strict:g})"]
    num_hits = row.texts[HIT] + row.texts[LOOSE]
    parts.append(
        f"{num_hits} of {loose.num_targets} texts found" + (f", {row.texts[LOOSE]} loosely" if row.texts[LOOSE] else "")
    )
    kinds = {MISSED: "missed", JOINED: "joined", SPLIT: "split"}
    errors = [f"{row.texts[letter]} {name}" for letter, name in kinds.items() if row.texts[letter]]
    if row.found[FALSE_ALARM]:
        errors.append(f"{row.found[FALSE_ALARM]} false alarm{'s' if row.found[FALSE_ALARM] > 1 else ''}")
    return "; ".join([*parts, ", ".join(errors) or "no errors"])


def _toolbar() -> str:
    labels = []
    for layer, name in LAYERS.items():
        checked = " checked" if layer in SHOWN_AT_FIRST else ""
        kind = "text" if layer in ("missed", "truth") else ""
        outline = f'<polygon class="{kind}" points="1,1 29,1 29,11 1,11" fill="none" stroke-width="2"/>'
        swatch = f'<svg class="{layer}" viewBox="0 0 30 12">{outline}</svg>'
        swatch = {"map": '<span class="map"></span>', "scores": ""}.get(layer, swatch)
        labels.append(f'<label><input type="checkbox" name="{layer}"{checked}>{swatch}{escape(name)}</label>')
    return f'<div class="layers" role="group" aria-label="Layers">{"".join(labels)}</div>'


def _comparison(report: ReportPage, comparison: Comparison) -> Iterator[str]:
    yield f'<h2 id="compare">Compared with {escape(comparison.other)}</h2>'
    missing = f"; {comparison.num_missing:,} images of this run are not in the other" if comparison.num_missing else ""
    num_alike = comparison.num_images - comparison.num_gains - comparison.num_losses
    yield f"<p>{comparison.num_images:,} images in both{missing}: {comparison.num_gains:,} better here, "
    yield f"{comparison.num_losses:,} worse, {num_alike:,} alike.</p>"
    heads = ("", "this run", "other run", "difference", "", "")
    yield f"<table><thead><tr>{''.join(f'<th>{head}</th>' for head in heads)}</tr></thead><tbody>"
    of_sets = comparison.pooled.of_sets.items()
    parts = (
        ("", _SHOWN, comparison.pooled.whole),
        *((f"{escape(name)}: ", _SHOWN[:1], pooled) for name, pooled in of_sets),
    )
    for prefix, names, at_thresholds in parts:
        for threshold, pooled in zip(report.iou_thresholds, at_thresholds, strict=True):
            yield from (
                f"<tr><th>{prefix}{name} at IoU {threshold:g}</th>{_compared(pooled, name)}</tr>" for name in names
            )
    yield "</tbody></table>"
    if comparison.num_images > 1:
        yield (
            f'<p class="soft">± is {MARGIN} standard errors of the difference, image by image. A difference within it may be '
            "chance: other images of the same kind could turn it round.</p>"
        )
    if comparison.changes:
        yield "<h3>Largest gains and losses first</h3>"
        yield from _changes(comparison.changes)
    if report.changes:
        yield '<p class="soft">This run is on the left, the other one on the right. The layers are those of all pictures.</p>'
        yield _toolbar()
        yield '<div class="shots">'
        for number, shown in enumerate(report.changes):
            name, change = f"c{number}", shown.change
            yield '<figure class="shot"><figcaption><button class="plain enlarge">larger</button>'
            said = f"hmean {hmean_of(change.here):.2f} here, {hmean_of(change.there):.2f} there"
            yield f"<b>{escape(change.name)}</b>{said}</figcaption>"
            yield f'{picture(name, shown.jpeg)}<div class="frame pair"><div><b>this run</b>{view(name, shown.here)}</div>'
            yield f"<div><b>other run</b>{view(name, shown.there)}</div></div></figure>"
        yield "</div>"


def _changes(changes: Sequence[Change]) -> Iterator[str]:
    heads = [
        ("image", "ascending"), ("difference", "descending"), ("hmean here", "ascending"), ("hmean there", "ascending"),
        ("errors here", "descending"), ("errors there", "descending"),
    ]  # fmt: skip
    yield _sortable(heads)
    for change in changes:
        numbers = f'<td class="num">{hmean_of(change.here):.4f}</td><td class="num">{hmean_of(change.there):.4f}</td>'
        errors = "".join(f'<td class="num">{errors_of(counts)}</td>' for counts in (change.here, change.there))
        yield f"<tr><td>{escape(change.name)}</td>{_difference(change.gain, 4)}{numbers}{errors}</tr>"
    yield "</tbody></table></div>"


def _difference(value: float, digits: int) -> str:
    kind = " gain" if value > 0 else " loss" if value < 0 else ""
    return f'<td class="num{kind}" data-value="{value:.6f}">{value:+.{digits}f}</td>'


def _compared(pooled: PooledCounts, name: str) -> str:
    """Returns the cells of a score of both runs."""
    here, there = (getattr(pooled.scores(run), name) for run in range(2))
    doubt = _doubt(here - there, _of(pooled.difference_errors(), name))
    return f'<td class="num">{here:.4f}</td><td class="num">{there:.4f}</td>{_difference(here - there, 4)}{doubt}'


def _doubt(difference: float, error: float | None) -> str:
    """Returns the cells with the margin of a difference, and whether the difference exceeds it."""
    if not error:
        return "<td></td><td></td>"
    said = "clear" if is_clear(difference, error) else "may be chance"
    return f'<td class="num">± {MARGIN * error:.4f}</td><td>{said}</td>'


def _sortable(heads: Sequence[tuple[str, str]]) -> str:
    """Returns the beginning of a table that a click on a heading sorts.

    Args:
        heads: name of each column, and the order that the first click gives.
    """
    cells = "".join(f'<th data-first="{first}"><button>{escape(name)}</button></th>' for name, first in heads)
    return f'<div class="scroll"><table class="sortable"><thead><tr>{cells}</tr></thead><tbody>'


def _all(report: ReportPage) -> Iterator[str]:
    """Yields the table of all images, with links to those that are shown in the page."""
    findings = report.findings
    links = {shown.row.name: f"i{number}" for number, shown in enumerate(report.images)}
    shown = (
        f"the {len(findings.rows):,} worst of {findings.num_images:,}"
        if len(findings.rows) < findings.num_images
        else "all"
    )
    yield f'<h2 id="all">Scores of each image, worst first ({shown})</h2>'
    names = ("errors", "texts", "found", "loosely", "missed", "joined", "split", "false alarms")
    yield _sortable(
        [
            ("image", "ascending"),
            ("hmean", "ascending"),
            (f"IoU {report.iou_thresholds[1]:g}", "ascending"),
            *((name, "descending") for name in names),
        ]
    )
    for row in findings.rows:
        yield _row(row, links.get(row.name))
    yield "</tbody></table></div>"


def _row(row: Row, link: str | None) -> str:
    name = escape(row.name) if link is None else f'<a href="#{link}">{escape(row.name)}</a>'
    counts: MatchCounts = row.matches[0]
    scores = "".join(f'<td class="num">{hmean_of(one):.4f}</td>' for one in row.matches)
    numbers = (
        errors_of(counts), counts.num_targets, row.texts[HIT] + row.texts[LOOSE], row.texts[LOOSE], row.texts[MISSED],
        row.texts[JOINED], row.texts[SPLIT], row.found[FALSE_ALARM],
    )  # fmt: skip
    cells = "".join(f'<td class="num">{number}</td>' for number in numbers)
    return f"<tr><td>{name}</td>{scores}{cells}</tr>"
