"""The HTML file of an inspection. It holds everything itself: pictures as data, charts as SVG; no script, no other file."""

import base64
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

from ocr.datasets.audit_report import NUM_SHOWN, AuditReport, in_words
from ocr.datasets.data_checks import DataCheck
from ocr.inspection.histograms import Histogram
from ocr.inspection.pictures import PANELS

_STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1d2530; --soft: #5c6773; --line: #d5dbe1; --card: #f5f7f9;
  --bar: #3674b5; --warn: #9a5b00; --warnbg: #fff6e3; --good: #16703c; }
@media (prefers-color-scheme: dark) { :root { --paper: #14181d; --ink: #e4e8ec; --soft: #9aa5b1; --line: #333b44;
  --card: #1d232a; --bar: #6aa5e3; --warn: #f0b85a; --warnbg: #2c2415; --good: #6fce93; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1900px; padding: 1.5rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; margin: 0; } h2 { margin: 2.5rem 0 .5rem; border-bottom: 2px solid var(--line); }
h3 { margin: 1.6rem 0 .5rem; } p { margin: .4rem 0; } .soft { color: var(--soft); }
nav a { margin-right: 1rem; color: inherit; }
table { border-collapse: collapse; } td, th { padding: .2rem 1rem .2rem 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); } th { font-weight: 600; color: var(--soft); white-space: nowrap; }
.todo { background: var(--warnbg); border-left: 4px solid var(--warn); padding: .5rem 1rem; margin: 1rem 0; }
.todo li { margin: .3rem 0; } .good { color: var(--good); }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); gap: 1rem; }
.images { display: grid; grid-template-columns: repeat(auto-fill, minmax(280px, 1fr)); gap: 1rem; }
figure { margin: 0; padding: .6rem; background: var(--card); border-radius: 6px; }
figcaption { font-size: .85rem; } figcaption b { display: block; }
img { max-width: 100%; height: auto; display: block; margin: 0 auto .4rem; }
.sample img { width: 100%; } .sample { margin-bottom: 1rem; }
.heads { display: grid; grid-template-columns: repeat(5, 1fr); font-size: .85rem; color: var(--soft); padding: 0 .6rem; }
svg { width: 100%; height: auto; } svg rect { fill: var(--bar); } svg text { fill: var(--soft); font-size: 11px; }
.key i { display: inline-block; width: 1rem; height: .3rem; margin: 0 .3rem .2rem 1rem; }
"""

_NUM_NAMED_BARS = 6
"""A chart with at most this many bars names each of them."""


@dataclass(frozen=True)
class Shown:
    """A picture with its caption."""

    jpeg: bytes
    title: str
    caption: str


@dataclass(frozen=True)
class SplitPage:
    """Everything that the page says about one split."""

    name: str
    places: str
    """Folder of the images."""
    reports: dict[str, AuditReport]
    """Audit of each data set by name; of one set under an empty name."""
    check: DataCheck
    histograms: Sequence[Histogram]
    images: Sequence[Shown]
    samples: Sequence[Shown]
    num_images: int


def page(splits: Sequence[SplitPage], together: Sequence[str], settings: Sequence[tuple[str, str]]) -> str:
    """Returns the HTML document.

    Args:
        together: what is wrong with training and validation split together, one line each.
        settings: settings that decide what the network gets: key, value.
    """
    links = "".join(f'<a href="#{escape(split.name)}">{escape(split.name)}</a>' for split in splits)
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">',
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">",
        f"<title>Data inspection</title><style>{_STYLE}</style></head><body>",
        f"<h1>Data inspection</h1><nav>{links}</nav>",
        f'<p class="soft">{escape(", ".join(f"{key}={value}" for key, value in settings))}</p>',
        _todo("Training and validation together", together) if together else "",
        *(part for split in splits for part in _split(split)),
        "</body></html>",
    ]
    return "\n".join(parts)


def _split(split: SplitPage) -> Iterator[str]:
    yield f'<h2 id="{escape(split.name)}">{escape(split.name)}</h2><p class="soft">{escape(split.places)}</p>'
    has_words = any(report.num_words for report in split.reports.values())
    to_do = [*_unusable(split.reports.values()), *split.check.warnings]
    if to_do:
        yield _todo("What to do before training", to_do)
    else:
        yield '<p class="good">The checks of the settings found nothing to do.</p>'
    yield "<h3>Audit</h3>"
    for name, report in split.reports.items():
        yield from _audit(name, report, split.check.rows if not name else ())
    if "" not in split.reports:
        yield _table(split.check.rows)
    yield "<h3>Histograms</h3>"
    yield f'<div class="charts">{"".join(_chart(histogram) for histogram in split.histograms)}</div>'
    yield f"<h3>Images, hardest and strangest first ({len(split.images)} of {split.num_images:,})</h3>"
    if has_words:
        yield (
            '<p class="soft key"><i style="background:#009646"></i>word <i style="background:#1e5aff"></i>its first edge, the '
            'reading direction <i style="background:#e16e00"></i>don&#8217;t-care region</p>'
        )
    yield f'<div class="images">{"".join(_figure(shown) for shown in split.images)}</div>'
    if has_words:
        yield "<h3>Samples as the network gets them, with their four target maps</h3>"
        yield f'<div class="heads">{"".join(f"<span>{escape(head)}</span>" for head in PANELS)}</div>'
        yield "".join(_figure(shown, "sample") for shown in split.samples)
    else:
        yield "<h3>Samples as the network gets them</h3>"
        yield f'<div class="images">{"".join(_figure(shown) for shown in split.samples)}</div>'


def _unusable(reports: Iterable[AuditReport]) -> list[str]:
    """Returns a line for the images that are left out, if there are any."""
    listed, usable = (
        sum(counts) for counts in zip(*((one.num_listed, one.num_images) for one in reports), strict=True)
    )
    if listed == usable:
        return []
    return [f"{listed - usable:,} of {listed:,} images are left out; the findings below say why and what to do"]


def _audit(name: str, report: AuditReport, measured: Sequence[tuple[str, str]]) -> Iterator[str]:
    counted = f"{report.num_images:,} of {report.num_listed:,} images usable, {report.num_words:,} words, "
    yield f"<p><b>{escape(name)}{': ' if name else ''}{counted}{report.num_ignored:,} of them don&#8217;t-care</b></p>"
    rows = [
        (in_words(key), ", ".join(f"{in_words(value)} ({count:,})" for value, count in values.items()))
        for key, values in report.statistics.items()
    ]
    if report.num_not_annotated:
        rows.append(("not annotated", f"{report.num_not_annotated:,} images in the folder"))
    yield _table([*rows, *measured])
    if report.findings:
        yield "<h3>Findings</h3>"
        yield _table([(kind, f"{count:,}") for kind, count in sorted(report.counts.items())])
        yield _table([(finding.kind, finding.without_kind()) for finding in report.findings[:NUM_SHOWN]])
        if len(report.findings) > NUM_SHOWN:
            yield f'<p class="soft">and {len(report.findings) - NUM_SHOWN:,} more in the JSON file of the audit</p>'


def _todo(title: str, lines: Sequence[str]) -> str:
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<div class="todo"><b>{escape(title)}</b><ul>{items}</ul></div>'


def _table(rows: Sequence[tuple[str, str]]) -> str:
    body = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in rows)
    return f"<table>{body}</table>" if body else ""


def _figure(shown: Shown, kind: str = "") -> str:
    data = base64.b64encode(shown.jpeg).decode()
    return (
        f'<figure class="{kind}"><img src="data:image/jpeg;base64,{data}" alt="{escape(shown.title)}">'
        f"<figcaption><b>{escape(shown.title)}</b>{escape(shown.caption)}</figcaption></figure>"
    )


def _chart(histogram: Histogram, width: int = 320, height: int = 130) -> str:
    """Returns a histogram as SVG with its title and note; each bar says its range and count when pointed at."""
    most, step, base = max(histogram.counts), width / len(histogram.counts), height - 16
    bars = "".join(
        f'<rect x="{place * step + 0.5:.1f}" y="{base - (base - 6) * count / most:.1f}" width="{step - 1:.1f}" '
        f'height="{(base - 6) * count / most:.1f}"><title>{escape(label)}: {count:,}</title></rect>'
        for place, (label, count) in enumerate(zip(histogram.labels, histogram.counts, strict=True))
    )
    first, last = escape(histogram.labels[0]), escape(histogram.labels[-1])
    texts = (
        f'<text x="0" y="{height - 3}">{first}</text><text x="{width}" y="{height - 3}" text-anchor="end">{last}</text>'
    )
    if len(histogram.labels) <= _NUM_NAMED_BARS:
        texts = "".join(
            f'<text x="{(place + 0.5) * step:.1f}" y="{height - 3}" text-anchor="middle">{escape(label)}</text>'
            for place, label in enumerate(histogram.labels)
        )
    return (
        f'<figure><b>{escape(histogram.title)}</b><svg viewBox="0 0 {width} {height}" role="img">{bars}{texts}</svg>'
        f'<figcaption class="soft">{escape(histogram.note)}</figcaption></figure>'
    )
