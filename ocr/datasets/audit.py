"""From raw annotations and a folder of images to a checked manifest, and the report of everything that is wrong.

Each image file is opened once: its header says size, orientation and coding; then, unless told otherwise, its pixels
are decoded strictly, since damage in a scan shows nowhere else. Each polygon is checked in the frame it was given in.
"""

import json
import logging
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.text import Text

from ocr.datasets.annotation_checks import Frame, WordFinding, check_annotation, without_repeats
from ocr.datasets.formats import AnnotatedImage, AnnotatedWord, read_annotations
from ocr.datasets.image_checks import ImageHeader, InspectedImage, inspect_image
from ocr.datasets.manifest import Manifest
from ocr.datasets.orientation import original_from_stored
from ocr.datasets.schemas import DatasetConfig
from ocr.errors import InputError
from ocr.polygons import PolygonBatch

logger = logging.getLogger(__name__)

Severity = Literal["annotation", "image", "note"]

NUM_SHOWN = 20
"""Findings that an error message or summary lists; the report file has all."""

SHOW_PROGRESS_FROM = 500
"""Images from which on a progress bar is worth it: about a second."""


@dataclass(frozen=True)
class _Rule:
    severity: Severity
    advice: str


_RULES = {
    # The image file.
    "missing": _Rule("image", "restore the file, or check image_path"),
    "unreadable": _Rule("image", "check the file's permissions and the disk"),
    "empty": _Rule("image", "copy the file again"),
    "not_an_image": _Rule("image", "save it as JPEG or PNG"),
    "wrong_extension": _Rule("image", "rename the file after its content, in the annotations too"),
    "unsupported": _Rule("image", "save it again as an ordinary 8-bit JPEG or PNG"),
    "bad_dimensions": _Rule("image", "save it again at a sensible size"),
    "truncated": _Rule("image", "copy or scan it again"),
    "damaged": _Rule("image", "copy or scan it again"),
    "ambiguous_orientation": _Rule("image", "save it again with one EXIF orientation, or without"),
    # The annotation of an image as a whole, or of a word.
    "malformed": _Rule("annotation", "correct the annotation"),
    "listed_twice": _Rule("annotation", "keep one entry"),
    "wrong_size": _Rule("annotation", "restore the picture the annotation was made on, or correct points and size"),
    "other_frame": _Rule("annotation", "if the whole set is so, set annotation_frame; otherwise correct the points"),
    "too_few_points": _Rule("annotation", "correct or remove the word"),
    "bad_coordinate": _Rule("annotation", "correct or remove the word"),
    "zero_area": _Rule("annotation", "correct or remove the word"),
    "self_crossing": _Rule("annotation", "put the points in order around the text"),
    "outside": _Rule("annotation", "correct or remove the word"),
    "duplicate": _Rule("annotation", "remove one of them"),
    # Worth knowing.
    "partly_outside": _Rule("note", "nothing to do; the part outside is cut off"),
    "decoder_warning": _Rule("note", "nothing to do; the pixels are whole"),
    "scan_not_checked": _Rule("note", "look at it once, or save it again as 4:2:0"),
}


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
        """annotation: an error unless skipped; image: skipped unless an error; note: neither."""
        return _RULES[self.kind].severity

    @property
    def advice(self) -> str:
        return _RULES[self.kind].advice

    def __str__(self) -> str:
        return f"{self.place}: {self.kind}: found {self.found}; expected {self.expected}; {self.advice}"


@dataclass(frozen=True)
class AuditReport:
    """What was looked at, what was found, and what is left to use."""

    num_listed: int
    """Images listed."""
    num_images: int
    """Images that are usable."""
    num_words: int
    """Words of the usable images, don't-care regions included."""
    num_ignored: int
    """Don't-care regions among them."""
    num_skipped_words: int
    """Bad words of usable images."""
    num_not_annotated: int
    """Images of the folder that the annotations do not list."""
    findings: tuple[Finding, ...]
    statistics: dict[str, dict[str, int]] = field(default_factory=dict)
    """Usable images by property: {"coding": {"baseline": 403, "progressive": 1}, "color": ..., ...}."""

    @property
    def counts(self) -> dict[str, int]:
        """Findings by kind."""
        return dict(Counter(finding.kind for finding in self.findings))

    def with_severity(self, *severities: Severity) -> list[Finding]:
        return [finding for finding in self.findings if finding.severity in severities]

    def write(self, path: Path) -> None:
        """Writes everything as JSON, and creates the folder."""
        document = asdict(self) | {"counts": self.counts}
        document["findings"] = [
            asdict(finding) | {"severity": finding.severity, "advice": finding.advice} for finding in self.findings
        ]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document, indent=1, ensure_ascii=False), encoding="utf-8")

    def summary(self) -> Text:
        """A few lines for the terminal; `.plain` for a log."""
        text = Text()
        text.append(f"{self.num_images} of {self.num_listed} images usable", "bold")
        text.append(f", {self.num_words} words, {self.num_ignored} of them don't-care\n")
        for name, values in self.statistics.items():
            shares = ", ".join(f"{value} {count / self.num_images:.1%}" for value, count in values.items())
            text.append(f"  {name}: {shares}\n")
        if self.num_not_annotated:
            text.append(f"  {self.num_not_annotated} images of the folder are not in the annotations\n")
        for kind, count in sorted(self.counts.items()):
            text.append(f"  {kind}: {count}\n", "dim" if _RULES[kind].severity == "note" else "yellow")
        return text


class BadDataError(InputError):
    """The data set is not fit for use. `report` has all findings."""

    def __init__(self, message: str, report: AuditReport) -> None:
        super().__init__(message)
        self.report = report


def _listed(findings: list[Finding]) -> str:
    lines = [f"  {finding}" for finding in findings[:NUM_SHOWN]]
    if len(findings) > NUM_SHOWN:
        lines.append(f"  and {len(findings) - NUM_SHOWN} more")
    return "\n".join(lines)


def load_manifest(
    config: DatasetConfig, *, max_megapixels: float, report_path: Path | None = None
) -> tuple[Manifest, AuditReport]:
    """Reads and checks the annotations of a split; bad input is reported, skipped or raised as `config.on_bad_sample` says."""
    image_dir = Path(config.image_path)
    annotations = None
    if config.annotation_path is not None:
        annotations = read_annotations(Path(config.annotation_path), image_dir, config.image_extensions)
    return build_manifest(
        image_dir,
        annotations,
        extensions=config.image_extensions,
        annotation_frame=config.annotation_frame,
        on_bad_sample=config.on_bad_sample,
        check_pixels=config.check_pixels,
        max_megapixels=max_megapixels,
        report_path=report_path,
    )


def build_manifest(
    image_dir: Path,
    annotations: Sequence[AnnotatedImage] | None,
    *,
    extensions: Sequence[str],
    annotation_frame: Frame = "stored",
    on_bad_sample: Literal["error", "skip"] | None = None,
    check_pixels: bool = True,
    max_megapixels: float = 100.0,
    num_threads: int | None = None,
    report_path: Path | None = None,
) -> tuple[Manifest, AuditReport]:
    """The usable images of a split with their polygons upright, and the report of what is wrong with the others.

    Args:
        image_dir: folder that the file names are relative to.
        annotations: as read; None: all images of the folder and its subfolders, sorted by name, without polygons.
        extensions: of images, lower case, with their dot.
        annotation_frame: frame of the annotations' coordinates: stored, or upright (EXIF applied).
        on_bad_sample: error: every finding but notes is an error. skip: bad words are left out, unreadable and wholly
            badly annotated images too. None: bad annotations are an error, unreadable images are left out.
        check_pixels: decode every file once. Without it, only headers are read, and damage in a scan stays hidden.
        max_megapixels: larger pictures are refused from their header.
        num_threads: of the decode; None: one a core, 8 at most.
        report_path: JSON file that gets all findings, also before an error is raised.

    Raises:
        FileNotFoundError: there is no such folder, or it holds no image.
        BadDataError: something is wrong that is not to be skipped (all of it is listed), or no image is left.
    """
    image_dir = Path(image_dir).resolve()
    if not image_dir.is_dir():
        raise FileNotFoundError(f"{image_dir}: there is no such image folder")
    in_folder = _images_in(image_dir, extensions)
    if annotations is None:
        annotations = [AnnotatedImage(filename, "") for filename in in_folder]
        if not annotations:
            raise FileNotFoundError(f"{image_dir}: no image with extension {', '.join(extensions)} in this folder")
    paths = [Path(os.path.normpath(image_dir / image.filename)) for image in annotations]
    inspected = _inspect_all(paths, extensions, max_megapixels, check_pixels, num_threads)

    times_listed = Counter(paths)
    findings: list[Finding] = []
    kept: list[_KeptImage] = []
    for index, (image, path, inspection) in enumerate(zip(annotations, paths, inspected, strict=True)):
        of_image = _findings_on(image, inspection, times_listed[path], annotation_frame)
        findings += of_image
        bad = [finding for finding in of_image if finding.severity != "note"]
        if inspection.header is not None and all(finding.word is not None for finding in bad):
            bad_keys = {finding.word for finding in bad}
            words = [word for word in image.words if word.key not in bad_keys]
            kept.append(_KeptImage(index, str(path), image.filename, inspection.header, words, len(bad_keys)))

    report = AuditReport(
        num_listed=len(annotations),
        num_images=len(kept),
        num_words=sum(len(image.words) for image in kept),
        num_ignored=sum(word.ignore for image in kept for word in image.words),
        num_skipped_words=sum(image.num_skipped_words for image in kept),
        num_not_annotated=len({image_dir / filename for filename in in_folder} - set(paths)),
        findings=tuple(findings),
        statistics=_statistics([image.header for image in kept]),
    )
    if report_path is not None:
        report.write(report_path)
    _raise_if_unfit(report, image_dir, on_bad_sample, report_path)
    skipped = report.with_severity("annotation", "image")
    if skipped:
        logger.warning("%s: left out because of bad input:\n%s", image_dir, _listed(skipped))
    return _manifest_of(kept, len(annotations), annotation_frame), report


@dataclass(frozen=True)
class _KeptImage:
    index: int
    path: str
    filename: str
    header: ImageHeader
    words: list[AnnotatedWord]
    num_skipped_words: int


def _images_in(folder: Path, extensions: Sequence[str]) -> list[str]:
    """Names relative to the folder, with /, sorted."""
    paths = (Path(root, name) for root, _, names in os.walk(folder) for name in names)
    return sorted(path.relative_to(folder).as_posix() for path in paths if path.suffix.lower() in extensions)


def _inspect_all(
    paths: Sequence[Path], extensions: Sequence[str], max_megapixels: float, check_pixels: bool, num_threads: int | None
) -> list[InspectedImage]:
    """One result a path; a path that comes twice is opened once."""
    distinct = list(dict.fromkeys(paths))
    with ThreadPoolExecutor(num_threads or min(os.cpu_count() or 1, 8)) as pool:
        results = pool.map(lambda path: inspect_image(path, extensions, max_megapixels, check_pixels), distinct)
        shown = track(
            results,
            "Checking images",
            total=len(distinct),
            console=Console(stderr=True),
            disable=len(distinct) < SHOW_PROGRESS_FROM,
        )
        inspected = dict(zip(distinct, shown, strict=True))
    return [inspected[path] for path in paths]


def _findings_on(image: AnnotatedImage, inspection: InspectedImage, times_listed: int, frame: Frame) -> list[Finding]:
    findings: list[WordFinding] = []
    if times_listed > 1:
        findings.append(("listed_twice", None, f"{times_listed} entries for this image", "one"))
    if inspection.problem is not None:
        problem = inspection.problem
        findings.append((problem.kind, None, problem.found, problem.expected))
    if inspection.note is not None:
        kind, found, expected = inspection.note
        findings.append((kind, None, found, expected))
    if inspection.header is not None:
        findings += check_annotation(image, inspection.header, frame)
    return [
        Finding(kind, image.place(word) if image.source else image.filename, image.filename, word, found, expected)
        for kind, word, found, expected in findings
    ]


def _statistics(headers: Sequence[ImageHeader]) -> dict[str, dict[str, int]]:
    counters: dict[str, Counter[str]] = defaultdict(Counter)
    for header in headers:
        for name in ("format", "coding", "color", "sampling", "bits", "orientation"):
            counters[name][str(getattr(header, name))] += 1
    return {name: dict(counter.most_common()) for name, counter in counters.items()}


def _raise_if_unfit(
    report: AuditReport, image_dir: Path, on_bad_sample: Literal["error", "skip"] | None, report_path: Path | None
) -> None:
    fatal: dict[str | None, tuple[Severity, ...]] = {
        "error": ("annotation", "image"),
        None: ("annotation",),
        "skip": (),
    }
    is_unfit = bool(report.with_severity(*fatal[on_bad_sample]))
    if not is_unfit and report.num_images > 0:
        return
    bad = report.with_severity("annotation", "image")
    reason = f"{len(bad)} findings" if is_unfit else f"none of {report.num_listed} listed images is usable"
    where = f"\nAll findings: {report_path}" if report_path is not None else ""
    advice = "\nCorrect them, or leave them out with on_bad_sample=skip." if is_unfit else ""
    raise BadDataError(f"{image_dir}: {reason}\n{_listed(bad)}{where}{advice}", report)


def _manifest_of(kept: Sequence[_KeptImage], num_listed: int, frame: Frame) -> Manifest:
    polygons = PolygonBatch.from_lists(
        [[without_repeats(word.points) for word in image.words] for image in kept],
        [[word.ignore for word in image.words] for image in kept],
    )
    headers = [image.header for image in kept]
    if frame == "stored":
        polygons = polygons.transformed(
            np.stack([original_from_stored(header.orientation, header.stored_size) for header in headers])
        )
    return Manifest(
        image_paths=tuple(image.path for image in kept),
        filenames=tuple(image.filename for image in kept),
        sample_ids=np.array([image.index for image in kept], np.int64),
        stored_sizes=np.array([header.stored_size for header in headers], np.int32).reshape(-1, 2),
        orientations=np.array([header.orientation for header in headers], np.uint8),
        polygons=polygons,
        num_listed=num_listed,
    )
