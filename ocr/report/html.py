"""Parts of an HTML page that holds everything itself: pictures as data, charts as SVG, no other file."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from ocr.report.histograms import Histogram

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


def document(title: str, body: Sequence[str], *, style: str = "", script: str = "") -> str:
    """Returns an HTML page that may load nothing, and may run no script but the given one.

    Args:
        body: parts of the page, as HTML.
        style, script: what the page has besides the common style; part of the page.
    """
    scripts = "; script-src 'unsafe-inline'" if script else ""
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'{scripts}"
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        f"<title>{escape(title)}</title><style>{_STYLE}{style}</style></head><body>",
        *body,
        f"<script>{script}</script>" if script else "",
        "</body></html>",
    ]
    return "\n".join(parts)


def data_url(content: bytes, kind: str = "jpeg") -> str:
    """Returns a picture as part of a page."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def todo(title: str, lines: Sequence[str]) -> str:
    """Returns a box of things to do, one a line."""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<div class="todo"><b>{escape(title)}</b><ul>{items}</ul></div>'


def table(rows: Sequence[tuple[str, str]]) -> str:
    """Returns a table of names and values; nothing without rows."""
    body = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in rows)
    return f"<table>{body}</table>" if body else ""


def figure(shown: Shown, kind: str = "") -> str:
    """Returns a picture with its caption.

    Args:
        kind: class for the style.
    """
    return (
        f'<figure class="{kind}"><img src="{data_url(shown.jpeg)}" alt="{escape(shown.title)}">'
        f"<figcaption><b>{escape(shown.title)}</b>{escape(shown.caption)}</figcaption></figure>"
    )


def chart(histogram: Histogram) -> str:
    """Returns a histogram as SVG with its title and note; each bar says its range and count when pointed at."""
    width, height = 320, 130
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
