"""The report on each split: report.json of the run, the marker in the output folder, and the log."""

import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ocr.atomic_write import write_durably
from ocr.file_names import json_in_utf8, shown
from ocr.preparation.outcomes import Outcome

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FilesReport:
    """Outcomes of the images, maps or shards of one split."""

    folder: str
    counts: dict[str, int]
    """Number of files by action."""
    num_bytes: int
    """Bytes written."""
    failed: dict[str, str]
    """Reason of each failure by file name."""

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {action}" for action, count in sorted(self.counts.items())) or "none"
        return f"{counts}, {self.num_bytes / 1e6:.1f} MB written to {self.folder}"


@dataclass(frozen=True)
class SplitReport:
    """Findings and results of one split."""

    source: dict[str, str]
    """image_path and annotation_path."""
    num_listed: int
    num_usable: int
    num_words: int
    num_skipped_words: int
    findings: dict[str, int]
    """Number of findings by kind; audit_<split>.json of the run lists each."""
    annotations: str | None
    """Path of the JSON file written."""
    images: FilesReport | None
    maps: FilesReport | None
    shards: FilesReport | None


def report_on_files(folder: Path, names: Sequence[str], outcomes: Sequence[Outcome]) -> FilesReport:
    """Returns the report on files of these names and outcomes."""
    return FilesReport(
        folder=str(folder),
        counts=dict(Counter(outcome.action for outcome in outcomes)),
        num_bytes=sum(outcome.num_bytes for outcome in outcomes),
        failed={
            name: outcome.reason for name, outcome in zip(names, outcomes, strict=True) if outcome.reason is not None
        },
    )


def write_reports(reports: dict[str, SplitReport], run_dir: Path) -> None:
    """Writes report.json to `run_dir`, and to the log one line for each kind of file and one for each failure."""
    document = {name: asdict(report) for name, report in reports.items()}
    write_durably(run_dir / "report.json", json_in_utf8(json.dumps(document, indent=1, ensure_ascii=False)))
    for name, report in reports.items():
        for kind, files in (("images", report.images), ("maps", report.maps), ("shards", report.shards)):
            if files is None:
                continue
            log.info("%s %s: %s", name, kind, files)
            for filename, reason in files.failed.items():
                log.warning("%s %s: failed: %s: %s", name, kind, shown(filename), shown(reason))
