"""Collects the result of an audit: the usable images as the arrays of a manifest, and a report of all findings."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ocr.datasets.annotation_checks import Frame, WordFinding, check_annotation, distinct_rings, doubtful_images
from ocr.datasets.audit_files import InspectedFiles, LocatedFile, joined
from ocr.datasets.audit_report import MAX_NOT_ANNOTATED, AuditReport, Finding
from ocr.datasets.formats.annotated import AnnotatedChunk, AnnotatedImage
from ocr.datasets.manifest import Manifest
from ocr.datasets.names import Names
from ocr.datasets.orientation import originals_from_stored
from ocr.file_names import name_problem
from ocr.polygons import PolygonBatch, starts_of

_STATISTICS = ("format", "coding", "color", "sampling", "bits", "orientation", "profile", "gamma")
_RARE_STATISTICS = ("profile", "gamma")
"""Left out if no image has them, so that most reports need no line for them."""
_MOST_ENTRIES = 100
"""Entries of one image, listed more than once, that get a finding each."""

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Audited:
    """A finished audit."""

    image_dir: Path
    """Resolved folder of the images."""
    folders: dict[str, list[int]]
    """Signatures of the folder ("") and its sub-folders when they were listed."""
    files: InspectedFiles
    """The file of each listed image."""
    columns: dict[str, list[Array]]
    """Arrays of the manifest, `ocr.datasets.manifest.COLUMNS`, in parts."""
    report: AuditReport
    warnings: list[str]
    format_reason: str = ""
    """Format of the annotations and why a look found it; empty without a look."""

    def manifest(self) -> Manifest:
        """Returns the manifest, in memory."""
        columns = {name: parts[0] if len(parts) == 1 else np.concatenate(parts) for name, parts in self.columns.items()}
        return Manifest.from_columns(columns, self.image_dir, self.report.num_listed)


@dataclass
class AuditResult:
    """The result of the chunks so far."""

    frame: Frame
    """Frame of the annotations' coordinates."""
    _files: list[InspectedFiles] = field(default_factory=list)
    _listed: list[Names] = field(default_factory=list)
    _sources: list[Names] = field(default_factory=list)
    _num_listed: int = 0
    _findings: dict[int, list[Finding]] = field(default_factory=dict)
    """By position among the listed images, as all of these."""
    _skipped_words: dict[int, int] = field(default_factory=dict)
    _filenames: list[Names] = field(default_factory=list)
    """Columns of the usable images; so are all that follow."""
    _sample_ids: list[Array] = field(default_factory=list)
    _polygons: list[PolygonBatch] = field(default_factory=list)

    def add(self, chunk: AnnotatedChunk, located: Sequence[LocatedFile], files: InspectedFiles) -> None:
        """Checks the annotations of a chunk, whose files have been inspected."""
        rings = distinct_rings(chunk)
        orientations, sizes = files.rows["orientation"], files.rows["stored_size"].astype(np.int64)
        doubtful = doubtful_images(chunk, rings, sizes, orientations, self.frame)
        is_usable, is_kept = orientations > 0, np.ones(len(chunk.ignore), np.bool_)
        with_note = (index for index, file in enumerate(located) if file.note is not None)
        for index in sorted({*np.flatnonzero(doubtful).tolist(), *files.remarks, *with_note}):
            image = chunk.image(index)
            findings = _findings_on(image, located[index], files, index, self.frame)
            self._findings[self._num_listed + index] = findings
            bad = {finding.word for finding in findings if finding.severity != "note"}
            is_usable[index] &= None not in bad
            if is_usable[index] and bad:
                self._skipped_words[self._num_listed + index] = len(bad)
                is_kept[chunk.word_starts[index] : chunk.word_starts[index + 1]] = [
                    word.key not in bad for word in image.words
                ]
        usable = np.flatnonzero(is_usable)
        self._filenames.append(Names.of(_portable(chunk.filenames[index], located[index]) for index in usable.tolist()))
        self._sample_ids.append(usable + self._num_listed)
        self._polygons.append(
            _polygons(chunk, rings, is_usable, is_kept, orientations if self.frame == "stored" else None, sizes)
        )
        self._files.append(files)
        self._listed.append(Names.of(chunk.filenames))
        self._sources.append(Names.of(chunk.sources))
        self._num_listed += len(chunk)

    def finished(
        self, image_dir: Path, in_folder: Names, folders: dict[str, list[int]], warnings: list[str]
    ) -> Audited:
        """Returns the whole result.

        Args:
            image_dir: resolved folder of the images.
            in_folder: names of all images in it.
            folders: signatures of the folder and its sub-folders when they were listed.
            warnings: lines for the log.
        """
        files = joined(self._files)
        times_listed = _times_listed(files.names)
        self._note_repeated(times_listed)
        sample_ids = np.concatenate([np.zeros(0, np.int64), *self._sample_ids])
        filenames = Names.joined(self._filenames)
        polygons = self._polygons
        if times_listed:
            is_single = ~np.isin(sample_ids, list(times_listed))
            polygons = [PolygonBatch.concatenate(polygons).select(np.flatnonzero(is_single))]
            sample_ids, filenames = sample_ids[is_single], filenames.select(np.flatnonzero(is_single))
        needs_conversion = np.array([header["needs_conversion"] for header in files.headers] + [False], np.bool_)
        rows, paths = files.rows[sample_ids], files.names.select(sample_ids)
        columns: dict[str, list[Array]] = {
            "filename_bytes": [filenames.content],
            "filename_starts": [filenames.starts],
            "path_bytes": [paths.content],
            "path_starts": [paths.starts],
            "sample_ids": [sample_ids],
            "stored_sizes": [np.ascontiguousarray(rows["stored_size"])],
            "orientations": [np.ascontiguousarray(rows["orientation"])],
            "is_converted": [needs_conversion[rows["header"]]],
            "vertices": [np.zeros((0, 2), np.float32), *(part.vertices for part in polygons)],
            "vertex_starts": [starts_of(_counts([part.vertex_starts for part in polygons]))],
            "polygon_starts": [starts_of(_counts([part.polygon_starts for part in polygons]))],
            "ignore": [np.zeros(0, np.bool_), *(part.ignore for part in polygons)],
        }
        not_annotated = np.flatnonzero(~np.isin(in_folder.codes, files.names.codes))
        report = AuditReport(
            num_listed=self._num_listed,
            num_images=len(sample_ids),
            num_words=sum(part.num_polygons for part in polygons),
            num_ignored=int(sum(part.ignore.sum() for part in polygons)),
            num_skipped_words=sum(n for index, n in self._skipped_words.items() if index not in times_listed),
            num_not_annotated=len(not_annotated),
            findings=tuple(finding for _, findings in sorted(self._findings.items()) for finding in findings),
            statistics=_statistics(rows["header"], files.headers),
            not_annotated=tuple(in_folder[index] for index in not_annotated[:MAX_NOT_ANNOTATED].tolist()),
        )
        return Audited(image_dir, folders, files, columns, report, warnings)

    def _note_repeated(self, times_listed: dict[int, int]) -> None:
        """Puts a finding before the others of each image that is listed more than once, for its first entries."""
        listed, sources = Names.joined(self._listed), Names.joined(self._sources)
        num_noted: Counter[str] = Counter()
        for index, times in times_listed.items():
            name = listed[index]
            num_noted[name] += 1
            if num_noted[name] > _MOST_ENTRIES:
                continue
            image = AnnotatedImage(name, sources[index])
            finding = _finding(image, ("listed_twice", None, f"{times} entries for this image", "one"))
            self._findings[index] = [finding, *self._findings.get(index, [])]


def _findings_on(
    image: AnnotatedImage, file: LocatedFile, files: InspectedFiles, index: int, frame: Frame
) -> list[Finding]:
    """Returns all findings on one image, but for repeated entries."""
    remarks, row = files.remarks.get(index, ()), files.rows[index]
    is_readable = row["header"] >= 0
    spelling = [] if file.note is None else [file.note]
    in_order = [*spelling, *remarks] if is_readable else [*remarks, *spelling]
    findings: list[WordFinding] = [(kind, None, found, expected) for kind, found, expected in in_order]
    if is_readable:
        height, width = row["stored_size"].tolist()
        findings += check_annotation(image, (height, width), int(row["orientation"]), frame)
    return [_finding(image, finding) for finding in findings]


def _finding(image: AnnotatedImage, finding: WordFinding) -> Finding:
    kind, word, found, expected = finding
    place = image.place(word) if image.source else image.filename
    return Finding(kind, place, image.filename, word, found, expected)


def _portable(listed: str, file: LocatedFile) -> str:
    """Returns the listed name, or the one on the disk if prepare_data cannot write a file of the listed one."""
    if listed == file.name or (name_problem(listed) is None and "\\" not in listed):
        return listed
    return file.name


def _polygons(
    chunk: AnnotatedChunk,
    rings: tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]],
    is_usable: npt.NDArray[np.bool_],
    is_kept: npt.NDArray[np.bool_],
    orientations: npt.NDArray[np.uint8] | None,
    sizes: npt.NDArray[np.int64],
) -> PolygonBatch:
    """Returns the kept words of the usable images, upright; their points are stored ones unless `orientations` is None."""
    points, starts = rings
    is_kept = is_kept & np.repeat(is_usable, np.diff(chunk.word_starts))
    num_points = np.diff(starts)
    num_kept_before = np.concatenate([[0], np.cumsum(is_kept)])
    polygons = PolygonBatch(
        vertices=points[np.repeat(is_kept, num_points)].astype(np.float32),
        vertex_starts=starts_of(num_points[is_kept]),
        polygon_starts=starts_of(np.diff(num_kept_before[chunk.word_starts])[is_usable]),
        ignore=chunk.ignore[is_kept],
    )
    if orientations is None:
        return polygons
    if (orientations[is_usable] > 1).any():
        return polygons.transformed(originals_from_stored(orientations[is_usable], sizes[is_usable]))
    polygons.vertices[:] += 0.0  # -0 becomes 0, as in the product with a matrix
    return polygons


def _counts(starts: Sequence[Array]) -> npt.NDArray[np.int64]:
    return np.concatenate([np.zeros(0, np.int64), *(np.diff(part) for part in starts)])


def _times_listed(names: Names) -> dict[int, int]:
    """Returns how often each repeated name is listed, by its position among the listed names."""
    codes = names.codes
    _, inverse, counts = np.unique(codes, return_inverse=True, return_counts=True)
    alike = np.flatnonzero(counts[inverse] > 1).tolist()
    alike_names = [names[index] for index in alike]  # names with equal codes may still differ
    times = Counter(alike_names)
    return {index: times[name] for index, name in zip(alike, alike_names, strict=True) if times[name] > 1}


def _statistics(header_positions: Array, headers: Sequence[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """Returns the number of images by property and value, the most frequent value first, then the one met first."""
    positions, first, counts = np.unique(header_positions, return_index=True, return_counts=True)
    statistics: dict[str, Counter[str]] = defaultdict(Counter)
    for place in np.argsort(first).tolist():
        header = headers[positions[place]]
        for name in _STATISTICS:
            statistics[name][str(header[name])] += int(counts[place])
    return {
        name: dict(counter.most_common())
        for name, counter in statistics.items()
        if name not in _RARE_STATISTICS or set(counter) != {"-"}
    }
