"""Turns raw annotations and a folder of images into a checked manifest and a report of everything that is wrong.

Each image file is opened once. Its header gives size, orientation and coding; then its pixels are decoded strictly, because
nothing else reveals damage in a scan. Each polygon is checked in the frame of the annotations. A name may differ from that of its
file in Unicode form, case or slashes; one that breaks the rule of `ocr.file_names` is never opened.

Annotations pass through in chunks, which leave only arrays behind. `ocr.datasets.audit_memo` keeps the result for the next start.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

from ocr.datasets.annotation_checks import Frame
from ocr.datasets.audit_files import FileInspector, InspectedFiles, InspectionInProgress, joined, locate
from ocr.datasets.audit_memo import AuditMemo, MemoKey
from ocr.datasets.audit_progress import AuditProgress
from ocr.datasets.audit_report import AuditReport, findings_text, raise_if_unfit
from ocr.datasets.audit_result import Audited, AuditResult
from ocr.datasets.converted import default_folder, with_converted_images
from ocr.datasets.folder_listing import FolderListing
from ocr.datasets.formats.annotated import AnnotatedChunk, AnnotatedImage, chunks_of
from ocr.datasets.formats.image_folder import ImageFolder
from ocr.datasets.formats.read import ChosenFormat, choose_format
from ocr.datasets.image_checks import CONVERTED_EXTENSIONS
from ocr.datasets.manifest import Manifest
from ocr.datasets.names import Names
from ocr.datasets.schemas import DatasetConfig
from ocr.progress import Pulse

logger = logging.getLogger(__name__)

_SECONDS_BETWEEN_PARTS = 10.0
"""Seconds of work that an interrupted audit loses at most."""


def load_manifest(
    config: DatasetConfig, *, max_megapixels: float, report_path: Path | None = None
) -> tuple[Manifest, AuditReport]:
    """Returns the checked manifest of a split and the report of its audit.

    The audit is taken from its memo if nothing has changed since, and otherwise made and kept (`config.audit_memo`). If two
    processes need it at once, the second one waits for the result of the first.

    Raises:
        FileNotFoundError, ValueError: the image folder or the annotations are missing or unreadable as a whole.
        BadDataError: bad input must not be skipped according to `config.on_bad_sample`, or no image is left.
        StorageError: the converted copy of an image cannot be written.
    """
    image_dir = Path(config.image_path)
    key = MemoKey.of(config, max_megapixels)
    with AuditMemo.opened(key, config.audit_memo) as memo:
        kept = None if memo is None else memo.load()
        if kept is not None:
            manifest, report, warnings = kept
        else:
            annotations: Iterable[AnnotatedImage] | None = None
            chosen: ChosenFormat | None = None
            images = ImageFolder(image_dir, config.image_extensions, config.annotation_frame, config.annotation_set)
            if config.annotation_path is not None:
                path = Path(config.annotation_path)
                chosen = choose_format(path, images, config.annotation_format)
                annotations = chosen.format.read(path, images)
            audited = _audit(
                image_dir,
                annotations,
                extensions=config.image_extensions,
                annotation_frame=config.annotation_frame,
                check_pixels=config.check_pixels,
                max_megapixels=max_megapixels,
                listing=images.listing if image_dir.is_dir() else None,
                memo=memo,
            )
            if chosen is not None:
                audited = replace(audited, format_reason=chosen.reason, warnings=[*chosen.warnings, *audited.warnings])
            manifest = audited.manifest() if memo is None else memo.store(audited)
            report, warnings = audited.report, audited.warnings
    _conclude(report, warnings, image_dir.resolve(), config.on_bad_sample, report_path)
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
    annotations: Iterable[AnnotatedImage] | None,
    *,
    extensions: Sequence[str],
    annotation_frame: Frame = "stored",
    on_bad_sample: Literal["error", "skip"] | None = None,
    check_pixels: bool = True,
    max_megapixels: float = 100.0,
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
        report_path: JSON file for all findings, written even if an error is raised.
        listing: files of the folder; None: it is listed.

    Raises:
        FileNotFoundError: there is no such folder, or it holds no image.
        BadDataError: something is wrong that must not be skipped (all of it is listed), or no image is left.
    """
    audited = _audit(
        image_dir,
        annotations,
        extensions=extensions,
        annotation_frame=annotation_frame,
        check_pixels=check_pixels,
        max_megapixels=max_megapixels,
        listing=listing,
    )
    _conclude(audited.report, audited.warnings, Path(image_dir).resolve(), on_bad_sample, report_path)
    return audited.manifest(), audited.report


def _conclude(
    report: AuditReport,
    warnings: Sequence[str],
    image_dir: Path,
    on_bad_sample: Literal["error", "skip"] | None,
    report_path: Path | None,
) -> None:
    """Writes the report, raises BadDataError if bad input must not be skipped, and logs what is left out."""
    for warning in warnings:
        logger.warning("%s", warning)
    if report_path is not None:
        report.write(report_path)
    raise_if_unfit(report, image_dir, on_bad_sample, report_path)
    skipped = report.with_severity("annotation", "image")
    if skipped:
        logger.warning("%s: left out because of bad input:\n%s", image_dir, findings_text(skipped))


def _audit(
    image_dir: Path,
    annotations: Iterable[AnnotatedImage] | None,
    *,
    extensions: Sequence[str],
    annotation_frame: Frame,
    check_pixels: bool,
    max_megapixels: float,
    listing: FolderListing | None = None,
    memo: AuditMemo | None = None,
) -> Audited:
    image_dir = Path(image_dir).resolve()
    if not image_dir.is_dir():
        raise FileNotFoundError(f"{image_dir}: there is no such image folder")
    listing = FolderListing(image_dir) if listing is None else listing
    in_folder = listing.images(extensions)
    warnings: list[str] = []
    if annotations is None:
        annotations, warnings = _without_annotations(listing, in_folder, extensions)
    inspector = FileInspector(
        image_dir,
        extensions,
        max_megapixels=max_megapixels,
        check_pixels=check_pixels,
        known=memo.known_files() if memo is not None else None,
    )
    result = AuditResult(annotation_frame)
    with _saved_parts(memo) as save, AuditProgress() as progress:
        try:
            chunks = (
                _Chunk(annotated, inspector.start([locate(listing, name) for name in annotated.filenames]))
                for annotated in chunks_of(annotations)
            )
            for chunk in _one_ahead(chunks):
                files, num_opened = inspector.finish(chunk.inspection)
                save(files, num_opened)
                result.add(chunk.annotated, chunk.inspection.located, files)
                progress.advance(len(files), chunk.annotated.share_read)
        finally:
            inspector.close()
    return result.finished(image_dir, Names.of(in_folder), listing.folders, warnings)


def _without_annotations(
    listing: FolderListing, in_folder: Sequence[str], extensions: Sequence[str]
) -> tuple[list[AnnotatedImage], list[str]]:
    """Returns the images of a folder as images without words, and warnings for the log.

    Args:
        in_folder: names that end with one of the extensions; without any, TIFF, BMP, WebP and GIF files are taken.

    Raises:
        FileNotFoundError: the folder holds no image.
    """
    names = in_folder or listing.images(CONVERTED_EXTENSIONS)
    if not names:
        raise FileNotFoundError(
            f"{listing.folder.resolve()}: no image with extension {', '.join(extensions)} in this folder "
            "or below it; check the path"
        )
    warnings = _warnings_of_other_images(listing, extensions) if in_folder else []
    return [AnnotatedImage(name, "") for name in names], warnings


def _warnings_of_other_images(listing: FolderListing, extensions: Sequence[str]) -> list[str]:
    others = [name for name in listing.images(CONVERTED_EXTENSIONS) if Path(name).suffix.lower() not in extensions]
    if not others:
        return []
    endings = ",".join(sorted({Path(name).suffix.lower() for name in others}))
    return [
        f"{listing.folder}: skipped {len(others)} images ending in {endings}; add these endings to image_extensions to read them"
    ]


class _Chunk(NamedTuple):
    annotated: AnnotatedChunk
    inspection: InspectionInProgress


def _one_ahead(chunks: Iterator[_Chunk]) -> Iterator[_Chunk]:
    """Yields each chunk once the next has been read, so that threads inspect the images of one meanwhile.

    If reading fails, the chunk before still comes: what was seen of its images counts once the annotations are mended.
    """
    before: _Chunk | None = None
    try:
        for chunk in chunks:
            if before is not None:
                yield before
            before = chunk
    except Exception:
        if before is not None:
            yield before
        raise
    if before is not None:
        yield before


@contextmanager
def _saved_parts(memo: AuditMemo | None) -> Iterator[Callable[[InspectedFiles, int], None]]:
    """Yields a function that takes inspected files; from time to time, and at an error, the memo gets those not saved yet."""
    unsaved: list[InspectedFiles] = []
    pulse = Pulse(_SECONDS_BETWEEN_PARTS)

    def flush() -> None:
        if memo is not None and unsaved:
            memo.save_part(joined(unsaved))
        unsaved.clear()

    def save(files: InspectedFiles, num_opened: int) -> None:
        if num_opened:
            unsaved.append(files)
        if pulse.is_due():
            flush()

    try:
        yield save
    except BaseException:
        flush()
        raise
