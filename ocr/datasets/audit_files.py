"""Inspects the image files of an audit: finds each by its listed name, opens it once, and keeps what was seen as arrays.

A file whose inode, size and times are those of an earlier audit is not opened again.
"""

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dali_pipelines.config import num_cores
from dali_pipelines.signature import Signature, signature_of
from ocr.datasets.file_states import MISSING, settled
from ocr.datasets.folder_listing import AmbiguousName, FolderListing, escaped
from ocr.datasets.image_checks import InspectedImage, Remark, inspect_image
from ocr.datasets.image_header import ImageHeader
from ocr.datasets.names import Names
from ocr.file_names import name_problem

ROW = np.dtype(
    [
        ("signature", np.int64, 4),  # inode, size, mtime and ctime, or a stand-in
        ("stored_size", np.int32, 2),  # (H, W)
        ("header", np.int32),  # position in `headers`; -1: not usable
        ("orientation", np.uint8),  # EXIF 1..8; 0: the file is not usable
    ]
)
"""One inspected file."""
HEADER_KEYS = {field.name for field in fields(ImageHeader)} - {"stored_size"} | {"needs_conversion"}
"""Properties of a header in `InspectedFiles.headers`."""
NOT_OPENED: Signature = (-2, -2, -2, -2)
"""Stands for the signature of a file with a bad name."""
_BATCH = 32
"""Number of files that a thread takes at once."""

Rows = npt.NDArray[Any]


@dataclass(frozen=True)
class LocatedFile:
    """The file that a listed name means."""

    name: str
    """Name on the disk, relative to the image folder; the listed one if there is no such file."""
    problem: Remark | None = None
    """Why no file is opened."""
    note: Remark | None = None
    """Says that the names differ."""


def locate(listing: FolderListing, filename: str) -> LocatedFile:
    """Returns the file that a listed name means."""
    try:
        found = listing.find(filename)
    except AmbiguousName as error:
        both = " and ".join(map(escaped, error.candidates))
        return LocatedFile(filename, Remark("ambiguous_name", f"two files that fit this name: {both}", "one"))
    problem = name_problem(filename if found is None else found.name)
    if problem is not None:
        return LocatedFile(filename, Remark("bad_name", *problem))
    if found is None or not found.differs_in:
        return LocatedFile(filename)
    differences = " and ".join(found.differs_in)
    on_disk = escaped(found.name) if "Unicode form" in found.differs_in else found.name
    return LocatedFile(
        found.name,
        note=Remark("other_spelling", f"the file {on_disk}", f"the same {differences} as in the annotations"),
    )


@dataclass(frozen=True)
class InspectedFiles:
    """Results of inspecting N files."""

    names: Names
    """(N,) names on the disk, relative to the image folder."""
    rows: Rows
    """(N,) of type `ROW`."""
    headers: Sequence[dict[str, Any]]
    """Properties of headers other than the size, such as {"format": "JPEG", "coding": "baseline", ...}."""
    remarks: Mapping[int, Sequence[Remark]] = field(default_factory=dict)
    """The problem of a file that is not usable, or the notes, by position."""

    def __len__(self) -> int:
        """Returns the number of files."""
        return len(self.rows)

    @cached_property
    def _sorted_codes(self) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
        codes = self.names.codes
        order = np.argsort(codes, kind="stable")
        return codes[order], order

    def positions_of(self, names: Names) -> npt.NDArray[np.int64]:
        """Returns the last position of each name here, or -1."""
        if not len(self):
            return np.full(len(names), -1, np.int64)
        codes, order = self._sorted_codes
        positions = order[np.searchsorted(codes, names.codes, side="right") - 1]
        return np.where(names.equal(np.arange(len(names)), self.names, positions), positions, -1)


def joined(parts: Sequence[InspectedFiles]) -> InspectedFiles:
    """Returns the files of all parts, in order."""
    headers: dict[str, int] = {}
    rows, remarks, num_before = [np.zeros(0, ROW)], {}, 0
    for part in parts:
        positions = [headers.setdefault(json.dumps(header), len(headers)) for header in part.headers]
        mine = part.rows.copy()
        mine["header"] = np.array([*positions, -1])[mine["header"]]
        rows.append(mine)
        remarks.update({num_before + position: remark for position, remark in part.remarks.items()})
        num_before += len(part)
    names = Names.joined([part.names for part in parts])
    return InspectedFiles(names, np.concatenate(rows), [json.loads(header) for header in headers], remarks)


_Batch = list[tuple[Signature, InspectedImage | None]]
"""Signature of each file, and what was seen; None: the file has not changed since it was inspected."""


class InspectionInProgress(NamedTuple):
    """Files that threads are inspecting."""

    located: Sequence[LocatedFile]
    names: Names
    known_positions: npt.NDArray[np.int64]
    order: Sequence[int]
    """Position of each file among the results: a file that is listed several times is inspected once."""
    batches: Sequence[Future[_Batch]]


class FileInspector:
    """Inspects files in threads, chunk after chunk. Close it at the end."""

    def __init__(
        self,
        image_dir: Path,
        extensions: Sequence[str],
        *,
        max_megapixels: float,
        check_pixels: bool,
        known: InspectedFiles | None = None,
    ) -> None:
        """Takes the settings of the audit.

        Args:
            image_dir: resolved folder that the names are relative to.
            extensions: image extensions, lower case, with their dot.
            max_megapixels: images whose header states more are refused.
            check_pixels: decode every file.
            known: files that earlier audits with the same settings have seen.
        """
        self._image_dir = image_dir
        self._extensions = extensions
        self._max_megapixels = max_megapixels
        self._check_pixels = check_pixels
        self._known = known or joined([])
        self._headers: list[dict[str, Any]] = list(self._known.headers)
        self._header_positions: dict[tuple[Any, ...], int] = {}
        self._pool = ThreadPoolExecutor(min(num_cores(), 8), "audit")

    def start(self, located: Sequence[LocatedFile]) -> InspectionInProgress:
        """Begins the inspection of some files."""
        names = Names.of(file.name for file in located)
        known_positions = self._known.positions_of(names)
        results: dict[str, int] = {}
        order = [results.setdefault(file.name, len(results)) for file in located]
        firsts = np.unique(order, return_index=True)[1].tolist()
        batches = [
            self._pool.submit(self._inspect, [located[position] for position in part], known_positions[part].tolist())
            for part in (firsts[start : start + _BATCH] for start in range(0, len(firsts), _BATCH))
        ]
        return InspectionInProgress(located, names, known_positions, order, batches)

    def finish(self, started: InspectionInProgress) -> tuple[InspectedFiles, int]:
        """Waits for an inspection. Returns what was seen, and the number of files that were opened."""
        rows = np.zeros(len(started.names), ROW)
        remarks: dict[int, Sequence[Remark]] = {}
        seen = [result for batch in started.batches for result in batch.result()]
        for position, (file, result) in enumerate(zip(started.located, started.order, strict=True)):
            signature, image = seen[result]
            rows[position]["signature"] = signature
            if image is not None:
                self._fill(rows[position], image)
                if image.remarks:
                    remarks[position] = image.remarks
            elif file.problem is not None:
                rows[position]["header"] = -1
                remarks[position] = [file.problem]
            else:
                known = int(started.known_positions[position])
                rows[position] = self._known.rows[known]
                if known in self._known.remarks:
                    remarks[position] = self._known.remarks[known]
        num_opened = sum(image is not None for _, image in seen)
        return InspectedFiles(started.names, rows, self._headers, remarks), num_opened

    def close(self) -> None:
        """Ends the threads; files that no thread has begun are left out."""
        self._pool.shutdown(cancel_futures=True)

    def _inspect(self, located: Sequence[LocatedFile], known_positions: Sequence[int]) -> _Batch:
        results: _Batch = []
        for file, known in zip(located, known_positions, strict=True):
            if file.problem is not None:
                results.append((NOT_OPENED, None))
                continue
            path = self._image_dir / file.name
            signature = signature_of(str(path)) or MISSING
            if known >= 0 and signature == tuple(self._known.rows[known]["signature"].tolist()):
                results.append((signature, None))
                continue
            image = inspect_image(path, self._extensions, self._max_megapixels, self._check_pixels)
            results.append((settled(signature), image))
        return results

    def _fill(self, row: Any, image: InspectedImage) -> None:
        header = image.header
        if header is None:
            row["header"] = -1
            return
        row["stored_size"], row["orientation"] = header.stored_size, header.orientation
        properties = {name: value for name, value in vars(header).items() if name != "stored_size"}
        key = tuple(properties.values())
        if key not in self._header_positions:
            self._header_positions[key] = len(self._headers)
            self._headers.append(properties | {"needs_conversion": header.needs_conversion})
        row["header"] = self._header_positions[key]
