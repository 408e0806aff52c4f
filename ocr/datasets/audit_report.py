"""The findings of an audit: their severity, the report on all of them, and the error for a data set that is not fit for use."""

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from rich.text import Text

from ocr.atomic_write import write_durably
from ocr.errors import InputError
from ocr.file_names import json_in_utf8, shown

Severity = Literal["annotation", "image", "note"]

NUM_SHOWN = 20
"""Largest number of findings that an error message or log line lists; the report file has all."""
MAX_NOT_ANNOTATED = 10_000
"""Largest number of images without annotations that a report names."""
_NUM_NAMED = 5
"""Number of these images that the summary names."""


@dataclass(frozen=True)
class _Rule:
    severity: Severity
    advice: str


_RULES = {
    # Findings on the image file.
    "missing": _Rule("image", "restore the file, or check image_path"),
    "unreadable": _Rule("image", "check the file's permissions and the disk"),
    "empty": _Rule("image", "copy the file again"),
    "not_an_image": _Rule("image", "save it as JPEG or PNG"),
    "unsupported": _Rule("image", "save it again as an ordinary 8-bit JPEG or PNG"),
    "bad_dimensions": _Rule("image", "save it again at a sensible size"),
    "too_many_scans": _Rule("image", "save it again; a decoder would be busy with it for minutes"),
    "truncated": _Rule("image", "copy or scan it again"),
    "damaged": _Rule("image", "copy or scan it again"),
    "ambiguous_orientation": _Rule("image", "save it again with one EXIF orientation, or without"),
    # Findings on the annotation of a whole image or of a word.
    "bad_name": _Rule("annotation", "rename the file, or correct its name in the annotations"),
    "ambiguous_name": _Rule("annotation", "write the name of the file that is meant exactly as on the disk"),
    "malformed": _Rule("annotation", "correct the annotation"),
    "listed_twice": _Rule("annotation", "keep one entry"),
    "normalised": _Rule(
        "annotation", "multiply x by the width and y by the height; data=yolo reads YOLO label files as they are"
    ),
    "wrong_size": _Rule("annotation", "restore the image that was annotated, or correct points and size"),
    "other_frame": _Rule(
        "annotation", "if this affects the whole set, set annotation_frame; otherwise correct the points"
    ),
    "too_few_points": _Rule("annotation", "correct or remove the word"),
    "bad_coordinate": _Rule("annotation", "correct or remove the word"),
    "zero_area": _Rule("annotation", "correct or remove the word"),
    "self_crossing": _Rule("annotation", "put the points in order around the text"),
    "outside": _Rule("annotation", "correct or remove the word"),
    "duplicate": _Rule("annotation", "remove one of them"),
    # Notes, which are never errors.
    "wrong_extension": _Rule("note", "nothing to do; files are read by their content"),
    "low_range": _Rule("note", "look at it once; if it should be dark, save it again with 8 bits"),
    "gamma": _Rule("note", "nothing to do if it looks right; gamma is not applied"),
    "other_spelling": _Rule("note", "nothing to do; this file is read"),
    "partly_outside": _Rule("note", "nothing to do; the part outside is cut off"),
    "decoder_warning": _Rule("note", "nothing to do; the pixels are whole"),
    "scan_not_checked": _Rule("note", "look at it once, or save it again as 4:2:0"),
}


KINDS = frozenset(_RULES)
"""All kinds of findings."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or worth knowing."""

    kind: str
    place: str
    """Annotation file with the image and word, or the image alone."""
    image: str
    """File name as listed."""
    word: str | None
    """Key of the word; None: the image as a whole."""
    found: str
    expected: str

    @property
    def severity(self) -> Severity:
        """annotation: an error by default; image: skipped by default; note: never either."""
        return _RULES[self.kind].severity

    @property
    def advice(self) -> str:
        """Instruction for the owner of the data set."""
        return _RULES[self.kind].advice

    def __str__(self) -> str:
        return shown(f"{self.place}: {self.kind}: {self._what_to_do()}")

    def without_kind(self) -> str:
        """Returns the finding as text for a table that shows its kind beside it."""
        return shown(f"{self.place}: {self._what_to_do()}")

    def _what_to_do(self) -> str:
        return f"found {self.found}; expected {self.expected}; {self.advice}"


@dataclass(frozen=True)
class AuditReport:
    """Findings of the audit of one split, and counts of what is usable."""

    num_listed: int
    """Number of images listed."""
    num_images: int
    """Number of usable images."""
    num_words: int
    """Number of words in the usable images, don't-care regions included."""
    num_ignored: int
    """Number of don't-care regions among them."""
    num_skipped_words: int
    """Number of bad words in usable images."""
    num_not_annotated: int
    """Number of images in the folder that the annotations do not list."""
    findings: tuple[Finding, ...]
    statistics: dict[str, dict[str, int]] = field(default_factory=dict)
    """Usable images by property: {"coding": {"baseline": 403, "progressive": 1}, "color": ..., ...}."""
    not_annotated: tuple[str, ...] = ()
    """Names of the images that the annotations do not list, the first `MAX_NOT_ANNOTATED`."""

    @property
    def counts(self) -> dict[str, int]:
        """Number of findings by kind."""
        return dict(Counter(finding.kind for finding in self.findings))

    def with_severity(self, *severities: Severity) -> list[Finding]:
        """Returns the findings of these severities."""
        return [finding for finding in self.findings if finding.severity in severities]

    def write(self, path: Path) -> None:
        """Writes everything to a JSON file, completely or not at all, and creates its folder.

        Raises:
            StorageError: the file cannot be written.
        """
        document = {name: value for name, value in vars(self).items() if name != "findings"} | {"counts": self.counts}
        # One finding a line: json.dumps with an indent, and dataclasses.asdict, take ten times as long for a million of them.
        encoded = json.JSONEncoder(ensure_ascii=False).encode
        findings = ",\n  ".join(
            encoded(vars(finding) | {"severity": finding.severity, "advice": finding.advice})
            for finding in self.findings
        )
        text = json.dumps(document, indent=1, ensure_ascii=False).removesuffix("\n}")
        text += f',\n "findings": [\n  {findings}\n ]\n}}'
        write_durably(path, json_in_utf8(text))

    def summary(self) -> Text:
        """Returns a line of counts for the terminal, and below it one for each kind of finding; its `.plain` suits a log."""
        text = Text()
        text.append(f"{self.num_images} of {self.num_listed} images usable", "bold")
        if self.num_words:
            text.append(f", {self.num_words} words, {self.num_ignored} of them don't-care")
        if self.num_not_annotated:
            text.append(f"\n  {self.num_not_annotated} images in the folder are not in the annotations")
            text.append(f": {self.names_not_annotated(_NUM_NAMED)}", "dim")
        for kind, count in sorted(self.counts.items()):
            rule = _RULES[kind]
            text.append(f"\n  {kind}: {count}", "dim" if rule.severity == "note" else "yellow")
            text.append(f"; {rule.advice}", "dim")
        return text

    def names_not_annotated(self, at_most: int) -> str:
        """Returns the names of the first images that the annotations do not list."""
        names = [shown(name) for name in self.not_annotated[:at_most]]
        return ", ".join([*names, "..."] if self.num_not_annotated > len(names) else names)


class BadDataError(InputError):
    """The data set is not fit for use. `report` has all findings."""

    def __init__(self, message: str, report: AuditReport) -> None:
        super().__init__(message)
        self.report = report


def findings_text(findings: list[Finding]) -> str:
    """Returns one line for each of the first `NUM_SHOWN` findings."""
    lines = [f"  {finding}" for finding in findings[:NUM_SHOWN]]
    if len(findings) > NUM_SHOWN:
        lines.append(f"  and {len(findings) - NUM_SHOWN} more")
    return "\n".join(lines)


def raise_if_unfit(
    report: AuditReport, image_dir: Path, on_bad_sample: Literal["error", "skip"] | None, report_path: Path | None
) -> None:
    """Raises BadDataError if a finding must not be skipped, or no image is usable."""
    fatal: dict[str | None, tuple[Severity, ...]] = {
        "error": ("annotation", "image"),
        None: ("annotation",),
        "skip": (),
    }
    is_unfit = bool(report.with_severity(*fatal[on_bad_sample]))
    if not is_unfit and report.num_images > 0:
        return
    bad = report.with_severity("annotation", "image")
    reason = (
        f"{len(bad)} finding{'s' if len(bad) > 1 else ''}"
        if is_unfit
        else f"none of {report.num_listed} listed images is usable"
    )
    where = f"\nAll findings: {report_path}" if report_path is not None else ""
    key = "in training datasets.train_dataset.config.on_bad_sample=skip, or val_dataset"
    advice = f"\nCorrect them, or leave them out with on_bad_sample=skip ({key})." if is_unfit else ""
    raise BadDataError(f"{image_dir}: {reason}\n{findings_text(bad)}{where}{advice}", report)
