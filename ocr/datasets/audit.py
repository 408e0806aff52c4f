"""Turns raw annotations and a folder of images into a checked manifest and a report of everything that is wrong.

Each image file is opened once. Its header gives size, orientation and coding; then its pixels are decoded strictly, because
nothing else reveals damage in a scan. Each polygon is checked in the frame of the annotations. A name may differ from that of its
file in Unicode form, case or slashes; one that breaks the rule of `ocr.file_names` is never opened.
"""

import logging
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from rich.console import Console
from rich.progress import track

from ocr.datasets.annotation_checks import Frame, WordFinding, check_annotation
from ocr.datasets.audit_report import AuditReport, Finding, findings_text, raise_if_unfit
from ocr.datasets.converted import default_folder, with_converted_images
from ocr.datasets.folder_listing import AmbiguousName, FolderListing, escaped
from ocr.datasets.formats.annotated import AnnotatedImage, AnnotatedWord
from ocr.datasets.formats.image_folder import ImageFolder
from ocr.datasets.formats.read import read_annotations
from ocr.datasets.image_checks import CONVERTED_EXTENSIONS, InspectedImage, inspect_image
from ocr.datasets.image_header import ImageHeader, ImageProblem
from ocr.datasets.manifest import Manifest
from ocr.datasets.orientation import original_from_stored
from ocr.datasets.schemas import DatasetConfig
from ocr.file_names import name_problem
from ocr.polygons import PolygonBatch

logger = logging.getLogger(__name__)

SHOW_PROGRESS_FROM = 500
"""Smallest number of images that get a progress bar; they take about a second."""


def load_manifest(
    config: DatasetConfig, *, max_megapixels: float, report_path: Path | None = None
) -> tuple[Manifest, AuditReport]:
    """Returns the checked manifest of a split and the report of its audit.

    Raises:
        FileNotFoundError, ValueError: the image folder or the annotations are missing or unreadable as a whole.
        BadDataError: bad input must not be skipped according to `config.on_bad_sample`, or no image is left.
        StorageError: the converted copy of an image cannot be written.
    """
    image_dir = Path(config.image_path)
    annotations = None
    if config.annotation_path is not None:
        images = ImageFolder(image_dir, config.image_extensions, config.annotation_frame, config.annotation_set)
        annotations = list(read_annotations(Path(config.annotation_path), images, config.annotation_format))
    manifest, report = build_manifest(
        image_dir,
        annotations,
        extensions=config.image_extensions,
        annotation_frame=config.annotation_frame,
        on_bad_sample=config.on_bad_sample,
        check_pixels=config.check_pixels,
        max_megapixels=max_megapixels,
        report_path=report_path,
    )
    return with_converted_images(manifest, _converted_folder(config)), report


def load_named_images(
    config: DatasetConfig, names: Sequence[str], *, max_megapixels: float
) -> tuple[Manifest, AuditReport]:
    """Returns what `load_manifest` returns, for some files of `config.image_path`, without annotations. Other files are not listed.

    Args:
        names: names relative to the folder, with /; any extension.
    """
    folder = Path(config.image_path).resolve()
    manifest, report = build_manifest(
        folder,
        [AnnotatedImage(name, "") for name in names],
        extensions=sorted({Path(name).suffix.lower() for name in names}),
        on_bad_sample=config.on_bad_sample,
        check_pixels=config.check_pixels,
        max_megapixels=max_megapixels,
        listing=FolderListing(folder, names),
    )
    return with_converted_images(manifest, _converted_folder(config)), report


def _converted_folder(config: DatasetConfig) -> Path:
    return default_folder() if config.converted_path is None else Path(config.converted_path).resolve()


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
    listing: FolderListing | None = None,
) -> tuple[Manifest, AuditReport]:
    """Returns the usable images of a split with their polygons upright, and the report of everything that is wrong.

    Args:
        image_dir: folder that the file names are relative to.
        annotations: annotations as read; None: all images of the folder and its subfolders, sorted by name, without polygons.
        extensions: image extensions, lower case, with their dot. A folder without such files is searched for TIFF, BMP, WebP and
            GIF instead.
        annotation_frame: frame of the annotations' coordinates: stored, or upright (EXIF applied).
        on_bad_sample: error: every finding except a note is an error. skip: bad words are left out, and so are images that are
            unreadable or whose annotation is bad as a whole. None: error for annotations, skip for unreadable images.
        check_pixels: decode every file once. Without it, only headers are read, and damage in a scan stays hidden.
        max_megapixels: images whose header states more are refused.
        num_threads: decoding threads; None: one per core, at most 8.
        report_path: JSON file for all findings, written even if an error is raised.
        listing: files of the folder; None: it is listed.

    Raises:
        FileNotFoundError: there is no such folder, or it holds no image.
        BadDataError: something is wrong that must not be skipped (all of it is listed), or no image is left.
    """
    image_dir = Path(image_dir).resolve()
    if not image_dir.is_dir():
        raise FileNotFoundError(f"{image_dir}: there is no such image folder")
    listing = FolderListing(image_dir) if listing is None else listing
    in_folder = listing.images(extensions)
    if annotations is None:
        if in_folder:
            _warn_of_other_images(listing, extensions)
        annotations = [AnnotatedImage(filename, "") for filename in in_folder or listing.images(CONVERTED_EXTENSIONS)]
        if not annotations:
            raise FileNotFoundError(f"{image_dir}: no image with extension {', '.join(extensions)} in this folder")
    located = _locate_all(listing, [image.filename for image in annotations])
    inspected = _inspect_all(image_dir, located, extensions, max_megapixels, check_pixels, num_threads)
    findings, usable = _judge(annotations, image_dir, located, inspected, annotation_frame)
    num_not_annotated = len(set(in_folder) - {file.name for file in located})
    report = _report(len(annotations), usable, num_not_annotated, findings)
    if report_path is not None:
        report.write(report_path)
    raise_if_unfit(report, image_dir, on_bad_sample, report_path)
    skipped = report.with_severity("annotation", "image")
    if skipped:
        logger.warning("%s: left out because of bad input:\n%s", image_dir, findings_text(skipped))
    return _manifest(usable, len(annotations), annotation_frame), report


def _warn_of_other_images(listing: FolderListing, extensions: Sequence[str]) -> None:
    others = [name for name in listing.images(CONVERTED_EXTENSIONS) if Path(name).suffix.lower() not in extensions]
    if others:
        endings = ",".join(sorted({Path(name).suffix.lower() for name in others}))
        logger.warning(
            "%s: skipped %d images ending in %s; add these endings to image_extensions to read them",
            listing.folder,
            len(others),
            endings,
        )


@dataclass(frozen=True)
class _UsableImage:
    index: int
    """Position among the listed images."""
    path: str
    filename: str
    header: ImageHeader
    words: list[AnnotatedWord]
    """Words without findings other than notes."""
    num_skipped_words: int


@dataclass(frozen=True)
class _LocatedFile:
    """The file that a listed name means."""

    name: str
    """Name on the disk, relative to the image folder; the listed one if there is no such file."""
    problem: ImageProblem | None = None
    note: tuple[str, str, str] | None = None
    """(kind, found, expected) if the names differ."""


def _locate_all(listing: FolderListing, filenames: Sequence[str]) -> list[_LocatedFile]:
    located = {filename: _locate(listing, filename) for filename in dict.fromkeys(filenames)}
    return [located[filename] for filename in filenames]


def _locate(listing: FolderListing, filename: str) -> _LocatedFile:
    try:
        found = listing.find(filename)
    except AmbiguousName as error:
        both = " and ".join(map(escaped, error.candidates))
        return _LocatedFile(filename, ImageProblem("ambiguous_name", f"two files that fit this name: {both}", "one"))
    problem = name_problem(filename if found is None else found.name)
    if problem is not None:
        return _LocatedFile(filename, ImageProblem("bad_name", *problem))
    if found is None or not found.differs_in:
        return _LocatedFile(filename)
    differences = " and ".join(found.differs_in)
    on_disk = escaped(found.name) if "Unicode form" in found.differs_in else found.name
    note = ("other_spelling", f"the file {on_disk}", f"the same {differences} as in the annotations")
    return _LocatedFile(found.name, note=note)


def _inspect_all(
    image_dir: Path,
    located: Sequence[_LocatedFile],
    extensions: Sequence[str],
    max_megapixels: float,
    check_pixels: bool,
    num_threads: int | None,
) -> list[InspectedImage]:
    """Returns one result per file; an image that is listed twice is opened once."""

    def inspect(file: _LocatedFile) -> InspectedImage:
        if file.problem is not None:
            return InspectedImage(problem=file.problem)
        return inspect_image(image_dir / file.name, extensions, max_megapixels, check_pixels)

    distinct = list({file.name: file for file in located}.values())
    with ThreadPoolExecutor(num_threads or min(os.cpu_count() or 1, 8)) as pool:
        results = pool.map(inspect, distinct)
        shown = track(
            results,
            "Checking images",
            total=len(distinct),
            console=Console(stderr=True),
            disable=len(distinct) < SHOW_PROGRESS_FROM,
        )
        inspected = dict(zip((file.name for file in distinct), shown, strict=True))
    return [inspected[file.name] for file in located]


def _judge(
    annotations: Sequence[AnnotatedImage],
    image_dir: Path,
    located: Sequence[_LocatedFile],
    inspected: Sequence[InspectedImage],
    frame: Frame,
) -> tuple[list[Finding], list[_UsableImage]]:
    """Returns all findings, and the images that are usable: readable, and without a finding on the image as a whole."""
    times_listed = Counter(file.name for file in located)
    findings: list[Finding] = []
    usable: list[_UsableImage] = []
    for index, (image, file, inspection) in enumerate(zip(annotations, located, inspected, strict=True)):
        on_image = _findings_on(image, file, inspection, times_listed[file.name], frame)
        findings += on_image
        bad = [finding for finding in on_image if finding.severity != "note"]
        if inspection.header is not None and all(finding.word is not None for finding in bad):
            bad_keys = {finding.word for finding in bad}
            words = [word for word in image.words if word.key not in bad_keys]
            path = str(image_dir / file.name)
            is_portable = name_problem(image.filename) is None and "\\" not in image.filename
            filename = image.filename if is_portable else file.name  # prepare_data writes files of these names
            usable.append(_UsableImage(index, path, filename, inspection.header, words, len(bad_keys)))
    return findings, usable


def _findings_on(
    image: AnnotatedImage, file: _LocatedFile, inspection: InspectedImage, times_listed: int, frame: Frame
) -> list[Finding]:
    findings: list[WordFinding] = []
    if times_listed > 1:
        findings.append(("listed_twice", None, f"{times_listed} entries for this image", "one"))
    if inspection.problem is not None:
        problem = inspection.problem
        findings.append((problem.kind, None, problem.found, problem.expected))
    for kind, found, expected in filter(None, (file.note, *inspection.notes)):
        findings.append((kind, None, found, expected))
    if inspection.header is not None:
        findings += check_annotation(image, inspection.header, frame)
    return [
        Finding(kind, image.place(word) if image.source else image.filename, image.filename, word, found, expected)
        for kind, word, found, expected in findings
    ]


def _report(
    num_listed: int, usable: Sequence[_UsableImage], num_not_annotated: int, findings: Sequence[Finding]
) -> AuditReport:
    statistics: dict[str, Counter[str]] = defaultdict(Counter)
    for image in usable:
        for name in ("format", "coding", "color", "sampling", "bits", "orientation", "profile", "gamma"):
            statistics[name][str(getattr(image.header, name))] += 1
    for name in ("profile", "gamma"):
        if set(statistics[name]) == {"-"}:  # rare, so that most reports need no line for it
            del statistics[name]
    return AuditReport(
        num_listed=num_listed,
        num_images=len(usable),
        num_words=sum(len(image.words) for image in usable),
        num_ignored=sum(word.ignore for image in usable for word in image.words),
        num_skipped_words=sum(image.num_skipped_words for image in usable),
        num_not_annotated=num_not_annotated,
        findings=tuple(findings),
        statistics={name: dict(counter.most_common()) for name, counter in statistics.items()},
    )


def _manifest(usable: Sequence[_UsableImage], num_listed: int, frame: Frame) -> Manifest:
    polygons = PolygonBatch.from_lists(
        [[word.distinct_points for word in image.words] for image in usable],
        [[word.ignore for word in image.words] for image in usable],
    )
    headers = [image.header for image in usable]
    if frame == "stored":
        polygons = polygons.transformed(
            np.stack([original_from_stored(header.orientation, header.stored_size) for header in headers])
        )
    return Manifest(
        image_paths=tuple(image.path for image in usable),
        filenames=tuple(image.filename for image in usable),
        sample_ids=np.array([image.index for image in usable], np.int64),
        stored_sizes=np.array([header.stored_size for header in headers], np.int32).reshape(-1, 2),
        orientations=np.array([header.orientation for header in headers], np.uint8),
        polygons=polygons,
        num_listed=num_listed,
        is_converted=np.array([header.needs_conversion for header in headers], np.bool_),
    )
