"""index.columns: the position of each image in the shards of a split, and its checked annotations, as arrays in one file."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator, Field, ValidationError

from dali_pipelines.config import Section
from ocr.datasets.column_file import ColumnFile, ColumnFileError, write_columns
from ocr.datasets.names import Names
from ocr.errors import InputError
from ocr.file_names import name_problem, shown
from ocr.polygons import PolygonBatch

INDEX_NAME = "index.columns"
OLD_INDEX_NAME = "index.json"
"""Index of version 1, which is not read."""
HEADER_SIZE = 512
"""Bytes of a tar header; file contents are padded to a multiple of it."""
_COLUMNS: dict[str, tuple[tuple[int, ...], type[np.generic]]] = {
    "filename_bytes": ((-1,), np.uint8),
    "filename_starts": ((-1,), np.int64),
    "sample_ids": ((-1,), np.int64),
    "shard_numbers": ((-1,), np.int32),
    "offsets": ((-1,), np.int64),
    "num_bytes": ((-1,), np.int64),
    "ends": ((-1,), np.int64),
    "sha256": ((-1, 32), np.uint8),
    "stored_sizes": ((-1, 2), np.int32),
    "orientations": ((-1,), np.uint8),
    "vertices": ((-1, 2), np.float32),
    "vertex_starts": ((-1,), np.int64),
    "polygon_starts": ((-1,), np.int64),
    "ignore": ((-1,), np.bool_),
}
"""Shape and type of the arrays in the file. -1 is any length."""
_PER_IMAGE = ("sample_ids", "shard_numbers", "offsets", "num_bytes", "ends", "sha256", "stored_sizes", "orientations")

Count = Annotated[int, Field(ge=0, le=2**63 - 1)]
Flags = npt.NDArray[np.bool_]


def _sound_name(name: str) -> str:
    problem = name_problem(name)
    if problem is not None:
        raise ValueError(f"{name!r}: found {problem[0]}; expected {problem[1]}")
    return name


class Shard(Section):
    """One tar file."""

    name: Annotated[str, AfterValidator(_sound_name)]
    """Name of the file beside the index."""
    num_bytes: Count


class _Values(Section):
    """Values of the file besides its arrays."""

    version: Literal[2] = 2
    num_listed: Count
    shards: list[Shard]


@dataclass(frozen=True)
class ShardIndex:
    """N images in shards, their positions and their annotations."""

    num_listed: int
    """Number of images before any was skipped."""
    shards: list[Shard]
    filenames: Names
    """Names in the annotations."""
    sample_ids: npt.NDArray[np.int64]
    """(N,): position among all listed images (`Manifest.sample_ids`); the key of the sample in its shard."""
    shard_numbers: npt.NDArray[np.int32]
    """(N,): position in `shards`."""
    offsets: npt.NDArray[np.int64]
    """(N,): position of the image's first byte in the shard, behind its tar header."""
    num_bytes: npt.NDArray[np.int64]
    """(N,): size of the image."""
    ends: npt.NDArray[np.int64]
    """(N,): position behind the sample's last member and its padding."""
    sha256: npt.NDArray[np.uint8]
    """(N, 32): SHA-256 of the image."""
    stored_sizes: npt.NDArray[np.int32]
    """(N, 2): (H, W) of the file as stored."""
    orientations: npt.NDArray[np.uint8]
    """(N,): EXIF orientation."""
    polygons: PolygonBatch
    """Polygons in the upright frame."""

    def __len__(self) -> int:
        return len(self.sample_ids)

    def write(self, path: Path) -> None:
        """Writes the file.

        Raises:
            OSError: the file cannot be written.
        """
        columns = {name: getattr(self, name) for name in _PER_IMAGE}
        columns |= {"filename_bytes": self.filenames.content, "filename_starts": self.filenames.starts}
        columns |= vars(self.polygons)
        values = _Values(num_listed=self.num_listed, shards=self.shards).model_dump()
        parts = {name: [np.asarray(columns[name], dtype)] for name, (_, dtype) in _COLUMNS.items()}
        write_columns(path, values, parts)


def index_in(mapped: ColumnFile, place: str) -> ShardIndex:
    """Returns the checked index. `place` is the path or URL of the file, for messages.

    Raises:
        InputError: the content is not an index that this version reads.
    """
    try:
        values = _Values.model_validate(mapped.values)
        columns = {name: mapped.column(name, np.dtype(dtype), shape) for name, (shape, dtype) in _COLUMNS.items()}
        problem = next(_problems(values, columns), None)
    except ValidationError as error:
        first = error.errors()[0]
        problem = f"{'.'.join(map(str, first['loc'])) or 'the file'}: {first['msg']}"
    except ColumnFileError as error:
        problem = str(error)
    except UnicodeDecodeError:
        problem = "filename_bytes: not UTF-8"
    if problem is not None:
        raise not_an_index(place, problem)
    return ShardIndex(
        num_listed=values.num_listed,
        shards=values.shards,
        filenames=Names(columns["filename_bytes"], columns["filename_starts"]),
        polygons=PolygonBatch(
            columns["vertices"], columns["vertex_starts"], columns["polygon_starts"], columns["ignore"]
        ),
        **{name: columns[name] for name in _PER_IMAGE},
    )


def not_an_index(place: str, problem: str) -> InputError:
    """Returns the error of a file that is no index."""
    return InputError(
        f"{place}: not an index of shards that this version reads: {shown(problem)}; write the shards again with "
        "scripts/prepare_data.py shards=true"
    )


def _problems(values: _Values, columns: dict[str, npt.NDArray[Any]]) -> Iterator[str]:
    """Yields what is wrong with the arrays. Later checks rely on earlier ones."""
    num_images = len(columns["sample_ids"])
    for name in _PER_IMAGE:
        if len(columns[name]) != num_images:
            yield f"{name}: {len(columns[name])} rows for {num_images} images"
    for name, number, total, least in (
        ("filename_starts", num_images, len(columns["filename_bytes"]), 1),
        ("polygon_starts", num_images, len(columns["ignore"]), 0),
        ("vertex_starts", len(columns["ignore"]), len(columns["vertices"]), 3),
    ):
        starts = columns[name]
        if len(starts) != number + 1 or starts[0] != 0 or starts[-1] != total or (np.diff(starts) < least).any():
            yield f"{name}: expected {number} ranges of at least {least} that fill {total} elements"
    if not np.isfinite(columns["vertices"]).all():
        yield "vertices: a number that is not finite"
    sizes = np.array([shard.num_bytes for shard in values.shards], np.int64)
    for wrong, what in _image_problems(columns, sizes):
        if wrong.any():
            yield f"image {int(wrong.argmax())}: {what}"
    for number, name in enumerate(Names(columns["filename_bytes"], columns["filename_starts"])):
        problem = name_problem(name)
        if problem is not None:
            yield f"image {number}: {name!r}: found {problem[0]}; expected {problem[1]}"


def _image_problems(columns: dict[str, npt.NDArray[Any]], sizes: npt.NDArray[np.int64]) -> Iterator[tuple[Flags, str]]:
    """Yields for each check of an image which ones fail, and the reason."""
    yield columns["sample_ids"] < 0, "a negative sample id"
    yield columns["stored_sizes"].min(axis=1) < 1, "a side of less than one pixel"
    yield np.isin(columns["orientations"], np.arange(1, 9), invert=True), "an EXIF orientation other than 1 to 8"
    shard_numbers = columns["shard_numbers"]
    is_outside = (shard_numbers < 0) | (shard_numbers >= len(sizes))
    yield is_outside, "lies outside the shards"
    offsets, num_bytes, ends = columns["offsets"], columns["num_bytes"], columns["ends"]
    # Compared without sums, which could overflow.
    yield (offsets < HEADER_SIZE) | (num_bytes < 0) | (ends < offsets), "an impossible position"
    yield num_bytes > ends - offsets, "the image ends behind its sample"
    yield ends > sizes[shard_numbers], "lies outside the shards"
