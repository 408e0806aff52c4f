"""The table of detectors, the agreement of our ways to the same text, and the shared detector, as a report and as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from benchmarks.detectors.agreement import MOST_PIXELS, MOST_SCORE, Agreement
from benchmarks.detectors.processes import Found
from benchmarks.detectors.scoring import IOUS, Pages, scores_of
from benchmarks.detectors.sharing import Sharing
from benchmarks.environment import environment_lines
from benchmarks.report import Report, Table
from ocr.metrics.pooled_counts import MARGIN, is_clear, with_margin

MOST_HMEAN_LOSS = {"float16": 0.002, "int8": 0.01}
"""Largest accepted loss of hmean against float32, by precision of the exported file."""


@dataclass(frozen=True)
class Row:
    """A detector on the pages of one data set."""

    pages: str
    num_pages: int
    detector: str
    is_ours: bool
    scores: dict[str, dict[str, Any]]
    """The scores and standard errors of `scores_of`, by IoU."""
    cpu_ms: list[float]
    """Median over the pages of the processor time from the file to its polygons, by round."""
    mean_cpu_ms: float
    peak_bytes: int
    """Largest resident set of its process until then."""
    loaded_bytes: int
    """The same before the first page."""

    @property
    def median_cpu_ms(self) -> float:
        """Median over the rounds of `cpu_ms`."""
        return median(self.cpu_ms)


@dataclass
class DetectorResults:
    """All figures of a run."""

    environment: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    """The user's remarks on the checkpoint and the pages."""
    rows: list[Row] = field(default_factory=list)
    detectors: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Facts of each detector's process: versions, model, image size."""
    agreements: dict[str, Agreement] = field(default_factory=dict)
    sharing: Sharing | None = None

    def document(self) -> dict[str, Any]:
        """Returns every figure, for a JSON file."""
        return asdict(self)


def row_of(
    pages: Pages,
    detector: str,
    is_ours: bool,
    rounds: Sequence[Sequence[Found]],
    firsts: Sequence[Found],
    facts: Mapping[str, Any],
) -> Row:
    """Returns a detector's figures on some pages.

    Args:
        rounds: its results of each pass.
        firsts: the results of the first detector, with which all others are compared.
        facts: those of its process.
    """
    seconds = [[page.cpu_seconds for page in found] for found in rounds]
    return Row(
        pages.name,
        len(pages.paths),
        detector,
        is_ours,
        scores_of(pages.counts(rounds[0]), pages.counts(firsts)),
        [1000 * median(each) for each in seconds],
        1000 * sum(map(sum, seconds)) / sum(map(len, seconds)),
        max(page.peak_bytes for found in rounds for page in found),
        1024 * facts["loaded_kb"],
    )


def report(results: DetectorResults) -> Report:
    """Returns the report for the terminal and for Markdown."""
    counts = dict.fromkeys(f"{row.num_pages} {row.pages}" for row in results.rows)
    inputs = f"pages: {', '.join(counts)}; passes over them: {len(results.rows[0].cpu_ms) if results.rows else 0}"
    return Report(
        title="Text detectors on the same pages",
        facts=[*environment_lines(results.environment, inputs), *results.notes],
        tables=[*_detectors(results), *([_agreement(results)] if results.agreements else [])],
        appendix=("Models and versions", [f"{name}: {_facts(facts)}" for name, facts in results.detectors.items()]),
        legend=(
            "Each page goes to all detectors in turn, each in a process of its own with one thread. CPU ms: processor time from "
            "the path of the file to its polygons, decoding included, median over the pages. hmean: ICDAR 2015 protocol, one "
            "evaluator for all; ± is twice its standard error over the pages, in the sentences that of the difference on the same "
            "pages. Peak: largest resident set of the process, its libraries and model included."
        ),
        conclusions=("What it shows", _conclusions(results)),
        is_interrupted=False,
    )


def _detectors(results: DetectorResults) -> list[Table]:
    names = list(dict.fromkeys(row.pages for row in results.rows))
    columns = ("detector", "hmean 0.5", "precision", "recall", "hmean 0.7", "CPU ms", "rounds", "loaded MB", "peak MB")
    return [Table(name, columns, [_cells(row) for row in results.rows if row.pages == name]) for name in names]


def _cells(row: Row) -> list[str]:
    loose, strict = (row.scores[str(iou)] for iou in IOUS)
    return [
        row.detector,
        with_margin(loose["hmean"], loose["hmean_error"]),
        f"{loose['precision']:.4f}",
        f"{loose['recall']:.4f}",
        with_margin(strict["hmean"], strict["hmean_error"]),
        f"{row.median_cpu_ms:,.0f}",
        ", ".join(f"{value:,.0f}" for value in row.cpu_ms),
        f"{row.loaded_bytes / 1e6:,.0f}",
        f"{row.peak_bytes / 1e6:,.0f}",
    ]


def _agreement(results: DetectorResults) -> Table:
    columns = ("against TextDetector of the checkpoint", "texts", "others", "same", "most px", "most score", "unpaired")
    rows = [
        [
            name,
            f"{found.num_texts:,}",
            f"{found.num_others:,}",
            f"{found.num_same:,}",
            f"{found.most_pixels:.3f}",
            f"{found.most_score:.6f}",
            str(len(found.unpaired_scores)),
        ]
        for name, found in results.agreements.items()
    ]
    note = f"same: a partner within {MOST_PIXELS} px and {MOST_SCORE} of score; predict.py rounds to 0.01 px and 0.0001"
    return Table("The same text by all ways", columns, rows, [note])


def _conclusions(results: DetectorResults) -> list[str]:
    lines = [
        line for name in dict.fromkeys(row.pages for row in results.rows) for line in _beside_rivals(results, name)
    ]
    lines += _reduced(results)
    for name, found in results.agreements.items():
        if not found.holds:
            lines.append(
                f"{name}: {found.num_same:,} of {found.num_texts:,} texts are the same; this misses the limit."
            )
    if results.sharing is not None:
        shared = results.sharing
        sizes = ", ".join(f"{size / 1e6:,.0f}" for size in shared.resident_bytes)
        lines.append(
            f"One TextDetector shared by {shared.num_threads} threads over {shared.num_pages:,} pages at {shared.image_size} px: "
            f"{shared.num_different} results differ from those of one thread. Resident MB after each tenth: {sizes}."
        )
    return lines


def _beside_rivals(results: DetectorResults, pages: str) -> list[str]:
    """Compares each rival with the checkpoint's row, whoever wins."""
    rows = [row for row in results.rows if row.pages == pages]
    ours = next((row for row in rows if row.is_ours), None)
    lines = []
    for rival in rows:
        if ours is None or rival.is_ours:
            continue
        cheapest = min((row for row in rows if row.is_ours), key=lambda row: row.median_cpu_ms)
        verdict = " and ".join(_verdict(ours.scores[str(iou)], rival.scores[str(iou)], iou) for iou in IOUS)
        lines.append(
            f"{pages}: {ours.detector} beside {rival.detector} is {verdict}. It takes "
            f"{ours.median_cpu_ms / rival.median_cpu_ms:.2f} times the processor time, our cheapest row, {cheapest.detector}, "
            f"{cheapest.median_cpu_ms / rival.median_cpu_ms:.2f} times, and {ours.peak_bytes / rival.peak_bytes:.2f} times the "
            "memory."
        )
    return lines


def _verdict(own: Mapping[str, Any], rival: Mapping[str, Any], iou: float) -> str:
    """Returns whether our score differs from a rival's by more than its margin."""
    difference, error = own["hmean"] - rival["hmean"], rival["difference_error"]
    margin = f", {difference:+.3f} ± {MARGIN * error:.3f}" if error else ""
    told = ("better" if difference > 0 else "worse") if is_clear(difference, error) else "not clearly different"
    return f"{told} at IoU {iou} ({own['hmean']:.3f}, {rival['hmean']:.3f}{margin})"


def _reduced(results: DetectorResults) -> list[str]:
    hmeans = {(row.pages, row.detector): row.scores["0.5"]["hmean"] for row in results.rows}
    lines = []
    for precision, limit in MOST_HMEAN_LOSS.items():
        for (pages, detector), hmean in hmeans.items():
            whole = hmeans.get((pages, detector.replace(precision, "float32")))
            if precision in detector and whole is not None:
                held = "within" if whole - hmean <= limit else "MORE THAN"
                lines.append(f"{pages}: {detector} loses {whole - hmean:.4f} of hmean, {held} {limit}.")
    return lines


def _facts(facts: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items() if version)
    own = [f"{name} {facts[name]}" for name in ("model", "image_size") if name in facts]
    return "; ".join([*own, versions])
