"""Keeps the result of an audit in a file, so that nothing is audited twice.

The file holds what was seen of every listed image file, the arrays of the manifest, and all findings. It is mapped, so ranks,
workers and other commands share its pages. It is used whole if the annotations, the folders and all image files are as they were;
otherwise only the files that have changed are opened again. While an audit runs, what it has seen so far is saved in parts.

A memo may come from a stranger, with a data set. It must therefore prove sound before it is used: names stay inside the image
folder, and no index leads out of its array.
"""

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dali_pipelines.compiled import compiled
from dali_pipelines.signature import signature_of
from ocr.datasets.audit_files import HEADER_KEYS, NOT_OPENED, ROW, InspectedFiles, joined
from ocr.datasets.audit_report import KINDS, AuditReport, Finding
from ocr.datasets.audit_result import Audited
from ocr.datasets.column_file import ColumnFile, ColumnFileError, identity_of, map_columns, write_columns
from ocr.datasets.file_states import MISSING, state_of
from ocr.datasets.formats.icdar import db_list_file
from ocr.datasets.formats.read import READ_AS
from ocr.datasets.image_checks import Remark
from ocr.datasets.manifest import COLUMNS, Manifest
from ocr.datasets.names import Names
from ocr.datasets.schemas import DatasetConfig
from ocr.environment import cache_folder
from ocr.errors import InputError
from ocr.file_lock import lock_of_process
from ocr.file_names import name_problem, shown

log = logging.getLogger(__name__)

MEMO_FOLDER = ".dbnet_audit"
"""Name of the folder of memos beside the folder of images."""
_LAYOUT = 1
_DAMAGED = (OSError, ColumnFileError, ValueError, TypeError, LookupError, AttributeError)
"""Errors of reading a memo whose JSON has another layout."""
_DAYS_MAPPED = 7
"""Age in days from which a memo of another version is removed: a run of that version is unlikely to map it any more."""
_NAME_OF_FIRST_VERSIONS = f"{'?' * 16}-{'?' * 16}.memo*"
"""Pattern of the names of memos that do not tell which audit they are of. No version of today reads them."""
_BATCH = 2048
"""Number of files whose signatures a thread compares at once."""


@dataclass(frozen=True)
class MemoKey:
    """Everything but the files that an audit depends on."""

    image_dir: Path
    annotation_path: Path | None
    inspection: dict[str, Any]
    """Settings that change what is seen of an image file."""
    judgement: dict[str, Any]
    """Settings that change what is made of it."""

    @classmethod
    def of(cls, config: DatasetConfig, max_megapixels: float) -> "MemoKey":
        """Returns the key of the audit of a split."""
        image_dir = Path(config.image_path).resolve()
        annotations = Path(config.annotation_path).resolve() if config.annotation_path is not None else None
        return cls(
            image_dir,
            annotations,
            inspection={
                "image_dir": str(image_dir),
                "extensions": config.image_extensions,
                "max_megapixels": max_megapixels,
                "check_pixels": config.check_pixels,
            },
            # annotation_path, _format, _frame, ...; paths as written, since messages name them
            judgement={key: value for key, value in config.model_dump().items() if key.startswith("annotation")},
        )

    @property
    def settings_digest(self) -> str:
        """Beginning of the memo's name: the same in every version of the code, and another for each data set."""
        return f"{_digest(self.inspection)}-{_digest(self.judgement)}"

    @property
    def file_name(self) -> str:
        """Name of the memo's file."""
        return f"{self.settings_digest}-{_version_digest()}.memo"

    @property
    def files_of_same_images(self) -> str:
        """Pattern of the memos, of this version, that have seen the same image files."""
        return f"{_digest(self.inspection)}-*-{_version_digest()}.memo*"


def _version_digest() -> str:
    return _digest([_LAYOUT, auditor_digest()])


def _digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]


@cache
def auditor_digest(package: Path = Path(__file__).parents[1]) -> str:
    """Returns a digest of the code that audits, and of the libraries that decode.

    Args:
        package: folder of the package ocr.
    """
    folder, others = package / "datasets", ("file_names.py", "polygons.py")
    sources = [*folder.glob("*.py"), *(folder / "formats").glob("*.py"), *(package / name for name in others)]
    digest = hashlib.sha256(str([version(name) for name in ("simplejpeg", "pillow", "shapely", "numpy")]).encode())
    for source in sorted(sources):
        digest.update(source.read_bytes())
    return digest.hexdigest()


class AuditMemo:
    """The memo of one split."""

    def __init__(self, key: MemoKey, path: Path) -> None:
        self._key = key
        self._path = path
        self._annotations = _annotation_state(key.annotation_path)
        """State of the annotations before they were read."""

    @classmethod
    @contextmanager
    def opened(cls, key: MemoKey, where: str) -> Iterator["AuditMemo | None"]:
        """Yields the memo of a split, which no other process makes at the same time; None: nothing is kept.

        Args:
            key: settings of the audit.
            where: auto, cache, off, or the folder of memos.
        """
        folder = _folder_for(key, where)
        if folder is None:
            yield None
            return
        with _lock(folder / f"{key.file_name}.lock", key.image_dir):
            yield cls(key, folder / key.file_name)

    def load(self) -> tuple[Manifest, AuditReport, list[str]] | None:
        """Returns manifest, report and warnings if nothing has changed since they were kept, otherwise None."""
        if not self._path.is_file():
            return None
        try:
            mapped = map_columns(self._path)
            files = _files_in(mapped)
            _check_manifest(mapped, len(files))
            kept = _manifest_in(mapped), _report_in(mapped), list(mapped.values["warnings"])
            format_reason = shown(mapped.values["format_reason"])
            is_current = self._is_current(mapped, files)
        except _DAMAGED as error:
            log.warning("%s: this memo is damaged or not ours, so the audit is made again: %r", self._path, error)
            return None
        if not is_current:
            return None
        if format_reason:
            log.info(READ_AS, self._key.annotation_path, format_reason)
        log.info("%s: unchanged since its audit, which is taken from %s", self._key.image_dir, self._path)
        return kept

    def known_files(self) -> InspectedFiles:
        """Returns what this and other memos with the same settings, and interrupted audits, have seen of the image files."""
        parts = []
        for path in sorted(self._path.parent.glob(self._key.files_of_same_images)):
            if path.suffix != ".lock":
                with suppress(*_DAMAGED):
                    parts.append(_files_in(map_columns(path)))
        return joined(parts)

    def save_part(self, files: InspectedFiles) -> None:
        """Keeps what an audit in progress has seen."""
        path = self._path.with_name(f"{self._path.name}.part{len(self._parts()):06d}")
        with suppress(OSError):  # the audit itself goes on
            write_columns(path, _file_values(files), _file_columns(files))

    def store(self, audited: Audited) -> Manifest:
        """Keeps a finished audit. Returns its manifest, mapped if it could be kept."""
        report = vars(audited.report) | {"findings": [astuple(finding) for finding in audited.report.findings]}
        values = {
            **_file_values(audited.files),
            "image_dir": str(audited.image_dir),
            "annotations": self._annotations,
            # Folders of memos change with each audit.
            "folders": {name: state for name, state in audited.folders.items() if f"/{MEMO_FOLDER}/" not in f"/{name}"},
            "report": report,
            "warnings": list(audited.warnings),
            "format_reason": audited.format_reason,
        }
        try:
            write_columns(self._path, values, {**_file_columns(audited.files), **audited.columns})
            mapped = map_columns(self._path)
        except (OSError, ColumnFileError) as error:
            log.warning("%s: the audit cannot be kept for the next start: %s", self._path, error)
            return audited.manifest()
        for path in [*self._parts(), *self._outdated()]:
            path.unlink(missing_ok=True)
        log.info("%s: the audit is kept in %s", self._key.image_dir, self._path)
        return _manifest_in(mapped)

    def _parts(self) -> list[Path]:
        return list(self._path.parent.glob(f"{self._path.name}.part*"))

    def _outdated(self) -> Iterator[Path]:
        """Yields what other versions of the code kept of the same audit, the first ones of any, unless a run may still map it."""
        newest = time.time() - _DAYS_MAPPED * 24 * 3600
        for pattern in (f"{self._key.settings_digest}-*", _NAME_OF_FIRST_VERSIONS):
            for path in self._path.parent.glob(pattern):
                if not path.name.startswith(self._path.name):
                    with suppress(OSError):
                        if path.stat().st_mtime < newest:
                            yield path

    def _is_current(self, mapped: ColumnFile, files: InspectedFiles) -> bool:
        image_dir = self._key.image_dir
        if mapped.values["annotations"] != self._annotations or mapped.values["image_dir"] != str(image_dir):
            return False
        if any(state != state_of(image_dir / name) for name, state in mapped.values["folders"].items()):
            return False
        num_changed = _count_changed(image_dir, files)
        if num_changed:
            log.info("%s: %d of %d image files have changed since their audit", image_dir, num_changed, len(files))
        return num_changed == 0


def _folder_for(key: MemoKey, where: str) -> Path | None:
    """Returns an existing, writable folder for memos, or None."""
    if where == "off":
        return None
    if where not in ("auto", "cache"):
        candidates = [Path(where)]
    else:
        candidates = [cache_folder() / "audit"]
        beside = key.image_dir.parent / MEMO_FOLDER
        # A folder of pictures without annotations is somebody's album, not a data set: nothing is put beside it. A link may lead
        # out of the data set.
        is_data_set = key.annotation_path is not None and key.image_dir.is_dir()
        if where == "auto" and is_data_set and not beside.is_symlink():
            candidates.insert(0, beside)
    for folder in candidates:
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            if os.access(folder, os.W_OK | os.X_OK):
                return folder
    if where not in ("auto", "cache"):
        raise InputError(f"audit_memo={where}: cannot be written; choose another folder, auto, cache or off")
    return None


@contextmanager
def _lock(path: Path, image_dir: Path) -> Iterator[None]:
    """Keeps other processes out of the `with` block, where the file system has locks."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError:
        yield
        return
    try:
        with suppress(OSError):  # forked workers would hold the other kind of lock after their parent has died
            try:
                lock_of_process(descriptor)
            except (BlockingIOError, PermissionError):
                log.info("%s: another process audits these images; waiting for its result", image_dir)
                lock_of_process(descriptor, wait=True)
        yield
    finally:
        os.close(descriptor)


def _annotation_state(path: Path | None) -> list[Any]:
    """Returns numbers that change with the annotations: the signature of a file, or a digest over those below a folder."""
    if path is None or not path.is_dir():
        return [] if path is None else state_of(path)
    digest, num_files = hashlib.sha256(), 0
    for folder, folders, names in os.walk(path):
        folders.sort()
        for name in sorted(names):
            state = state_of(Path(folder, name))
            digest.update(json.dumps([os.path.relpath(folder, path), name, state]).encode())
            num_files += 1
    listing = db_list_file(path)  # selects the files that are read
    if listing is not None:
        digest.update(json.dumps([listing.name, state_of(listing)]).encode())
    return [num_files, digest.hexdigest()]


def _count_changed(image_dir: Path, files: InspectedFiles) -> int:
    """Returns the number of files whose signature is not the one they had."""
    prefix = f"{image_dir}/"
    signatures = files.rows["signature"]

    def count(first: int) -> int:
        now = []
        for position in range(first, min(first + _BATCH, len(files))):
            is_opened = signatures[position, 0] != NOT_OPENED[0]
            now.append((signature_of(prefix + files.names[position]) or MISSING) if is_opened else NOT_OPENED)
        return int((np.array(now, np.int64) != signatures[first : first + len(now)]).any(axis=1).sum())

    # Threads hide the time that a network file system takes to answer.
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
        return sum(pool.map(count, range(0, len(files), _BATCH)))


def _file_values(files: InspectedFiles) -> dict[str, Any]:
    return {"headers": list(files.headers), "remarks": sorted(files.remarks.items())}


def _file_columns(files: InspectedFiles) -> dict[str, list[npt.NDArray[Any]]]:
    return {"file_bytes": [files.names.content], "file_starts": [files.names.starts], "file_rows": [files.rows]}


def _files_in(mapped: ColumnFile) -> InspectedFiles:
    """Returns the inspected files of a memo.

    Raises:
        ColumnFileError: they are not sound.
    """
    names = _names(mapped, "file_bytes", "file_starts")
    rows, headers = mapped.column("file_rows", ROW, (len(names),)), mapped.values["headers"]
    is_usable = rows["header"] >= 0
    is_sound = (
        all(header.keys() == HEADER_KEYS for header in headers)
        and (rows["header"] < len(headers)).all()
        and ((rows["orientation"] >= 1) == is_usable).all()
        and (rows["orientation"] <= 8).all()
        and (rows["stored_size"][is_usable] > 0).all()
    )
    remarks = {position: tuple(Remark(*remark) for remark in remarks) for position, remarks in mapped.values["remarks"]}
    kinds = {remark.kind for at_position in remarks.values() for remark in at_position}
    if not is_sound or not kinds <= KINDS or not all(0 <= position < len(names) for position in remarks):
        raise ColumnFileError("files with properties that no file has")
    _check_sound(names, np.flatnonzero(rows["signature"][:, 0] != NOT_OPENED[0]))
    return InspectedFiles(names, rows, headers, remarks)


def _check_manifest(mapped: ColumnFile, num_listed: int) -> None:
    """Raises ColumnFileError if the arrays of a memo are no manifest of this number of listed images."""
    paths, filenames = _names(mapped, "path_bytes", "path_starts"), _names(mapped, "filename_bytes", "filename_starts")
    num_images = len(paths)
    for name, (shape, dtype) in COLUMNS.items():
        per_image = (
            (num_images, *shape[1:])
            if name in ("sample_ids", "stored_sizes", "orientations", "is_converted")
            else shape
        )
        mapped.column(name, np.dtype(dtype), per_image)
    columns = mapped.columns
    _check_starts(columns["vertex_starts"], len(columns["vertices"]))
    _check_starts(columns["polygon_starts"], len(columns["ignore"]))
    ids, orientations = columns["sample_ids"], columns["orientations"]
    if (
        len(filenames) != num_images
        or len(np.unique(filenames.codes)) != num_images
        or len(columns["polygon_starts"]) != num_images + 1
        or len(columns["vertex_starts"]) != len(columns["ignore"]) + 1
        or (num_images and (ids[0] < 0 or ids[-1] >= num_listed or (np.diff(ids) <= 0).any()))
        or ((orientations < 1) | (orientations > 8)).any()
        or (columns["stored_sizes"] <= 0).any()
        or (np.diff(columns["vertex_starts"]) < 3).any()
        or not np.isfinite(columns["vertices"]).all()
    ):
        raise ColumnFileError("arrays that do not fit each other")
    _check_sound(paths, np.arange(num_images))
    _check_sound(filenames, np.arange(num_images))


def _names(mapped: ColumnFile, content: str, starts: str) -> Names:
    names = Names(mapped.column(content, np.dtype(np.uint8), (-1,)), mapped.column(starts, np.dtype(np.int64), (-1,)))
    _check_starts(names.starts, len(names.content))
    return names


def _check_starts(starts: npt.NDArray[np.int64], end: int) -> None:
    if not len(starts) or starts[0] != 0 or starts[-1] != end or (np.diff(starts) < 0).any():
        raise ColumnFileError("ranges that lead out of their array")


def _check_sound(names: Names, rows: npt.NDArray[np.int64]) -> None:
    """Raises ColumnFileError if one of the names at these rows breaks the rule of `ocr.file_names`."""
    is_plain = _are_plain(names.content, names.starts, rows)
    try:
        problems = [name_problem(names[row]) for row in rows[~is_plain].tolist()]
    except UnicodeDecodeError:
        problems = [("", "")]
    if any(problems):
        raise ColumnFileError("names that no image can have")


@compiled
def _are_plain(
    content: npt.NDArray[np.uint8], starts: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]
) -> npt.NDArray[np.bool_]:
    """Returns whether the names consist of letters, digits, `-` and `_`, with single dots and slashes between these."""
    plain = np.empty(len(rows), np.bool_)
    for i in range(len(rows)):
        first, end = starts[rows[i]], starts[rows[i] + 1]
        is_plain, is_between = 0 < end - first < 250, True
        for place in range(first, end):
            byte = content[place]
            is_letter = 65 <= byte <= 90 or 97 <= byte <= 122 or 48 <= byte <= 57 or byte == 95 or byte == 45
            is_plain = is_plain and (is_letter or ((byte == 46 or byte == 47) and not is_between))
            is_between = not is_letter
        plain[i] = is_plain and not is_between
    return plain


def _manifest_in(mapped: ColumnFile) -> Manifest:
    manifest = Manifest.from_columns(
        mapped.columns, Path(mapped.values["image_dir"]), mapped.values["report"]["num_listed"]
    )
    object.__setattr__(manifest, "reopen", partial(_reopening, mapped.path, mapped.identity))
    return manifest


def _reopening(path: Path, identity: tuple[int, int, int]) -> Callable[[], Manifest] | None:
    return partial(_reopened, path, identity) if identity_of(path) == identity else None


def _reopened(path: Path, identity: tuple[int, int, int]) -> Manifest:
    """Returns the manifest of a memo that another process of this run has checked."""
    try:
        mapped = map_columns(path, check=False)
    except (OSError, ColumnFileError) as error:
        raise InputError(f"{path}: cannot be read: {error}; start the run again") from error
    if mapped.identity != identity:
        raise InputError(f"{path}: another process has replaced this file just now; start the run again")
    return _manifest_in(mapped)


def _report_in(mapped: ColumnFile) -> AuditReport:
    values = mapped.values["report"]
    findings = tuple(Finding(*finding) for finding in values["findings"])
    not_annotated = tuple(map(str, values.get("not_annotated", ())))
    return AuditReport(**(values | {"findings": findings, "not_annotated": not_annotated}))
