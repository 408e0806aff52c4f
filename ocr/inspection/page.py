"""The HTML file of an inspection. It holds everything itself: pictures as data, charts as SVG; no script, no other file."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

from ocr.datasets.audit_report import NUM_SHOWN, AuditReport
from ocr.datasets.data_checks import DataCheck
from ocr.report.histograms import Histogram
from ocr.report.html import Shown, chart, document, figure, table, todo
from ocr.report.samples import PANELS

_LABELS = {
    "sampling": "chroma sampling",
    "bits": "bits per channel",
    "orientation": "EXIF orientation",
    "profile": "colour profile (not applied)",
    "gamma": "gamma (not applied)",
    "-": "none",
}
"""Words for names and values of the statistics."""


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
    body = [
        f"<h1>Data inspection</h1><nav>{links}</nav>",
        f'<p class="soft">{escape(", ".join(f"{key}={value}" for key, value in settings))}</p>',
        todo("Training and validation together", together) if together else "",
        *(part for split in splits for part in _split(split)),
    ]
    return document("Data inspection", body)


def _split(split: SplitPage) -> Iterator[str]:
    yield f'<h2 id="{escape(split.name)}">{escape(split.name)}</h2><p class="soft">{escape(split.places)}</p>'
    has_words = any(report.num_words for report in split.reports.values())
    to_do = [*_unusable(split.reports.values()), *split.check.warnings]
    if to_do:
        yield todo("What to do before training", to_do)
    else:
        yield '<p class="good">The checks of the settings found no problems.</p>'
    yield "<h3>Audit</h3>"
    for name, report in split.reports.items():
        yield from _audit(name, report, split.check.rows if not name else ())
    if "" not in split.reports:
        yield table(split.check.rows)
    yield "<h3>Histograms</h3>"
    yield f'<div class="charts">{"".join(chart(histogram) for histogram in split.histograms)}</div>'
    yield f"<h3>Images, hardest and strangest first ({len(split.images)} of {split.num_images:,})</h3>"
    if has_words:
        yield (
            '<p class="soft key"><i style="background:#009646"></i>word <i style="background:#1e5aff"></i>its first edge, the '
            'reading direction <i style="background:#e16e00"></i>don&#8217;t-care region</p>'
        )
    yield f'<div class="images">{"".join(figure(shown) for shown in split.images)}</div>'
    if has_words:
        yield "<h3>Samples as the network gets them, with their four target maps</h3>"
        yield f'<div class="heads">{"".join(f"<span>{escape(head)}</span>" for head in PANELS)}</div>'
        yield "".join(figure(shown, "sample") for shown in split.samples)
    else:
        yield "<h3>Samples as the network gets them</h3>"
        yield f'<div class="images">{"".join(figure(shown) for shown in split.samples)}</div>'


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
        (
            _LABELS.get(key, key),
            ", ".join(f"{_LABELS.get(value, value)} ({count:,})" for value, count in values.items()),
        )
        for key, values in report.statistics.items()
    ]
    if report.num_not_annotated:
        names = report.names_not_annotated(NUM_SHOWN)
        rows.append(("not annotated", f"{report.num_not_annotated:,} images in the folder: {names}"))
    yield table([*rows, *measured])
    if report.findings:
        yield "<h3>Findings</h3>"
        yield table([(kind, f"{count:,}") for kind, count in sorted(report.counts.items())])
        yield table([(finding.kind, finding.without_kind()) for finding in report.findings[:NUM_SHOWN]])
        if len(report.findings) > NUM_SHOWN:
            yield f'<p class="soft">and {len(report.findings) - NUM_SHOWN:,} more in the JSON file of the audit</p>'
