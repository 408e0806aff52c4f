"""The manifest of a split in shards, from its index, and the source of its images, from its storage."""

import hashlib
import io
import tarfile
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, overload

from dali_pipelines.signature import Signature
from ocr.datasets.audit_report import AuditReport
from ocr.datasets.manifest import Manifest
from ocr.datasets.schemas import DEFAULT_SHARD_CONNECTIONS, ShardReader
from ocr.datasets.shards.index import HEADER_SIZE, INDEX_NAME, ShardIndex
from ocr.datasets.shards.read_ahead import ReadAhead
from ocr.datasets.shards.storage import ShardFolder
from ocr.errors import InputError, StorageError

ImageFinder = Callable[[bytes, str], bytes]
"""Returns the image in one sample's piece of a tar file, given the piece and the sample's name; empty if there is none."""

_MAX_RANGE = 4 << 20
"""Bytes fetched in one request at most, if they are more than one image."""
_MAX_WASTE = 0.25
"""Share of a range that other samples may take, which lie between those that are needed."""
NUM_FETCHED_AHEAD = 32
"""Number of images fetched ahead from a folder, and at least that many from a remote storage."""
_NUM_AHEAD_REMOTE = 512
"""Number of images fetched ahead from a remote storage at most."""
_MAX_AHEAD = 256 << 20
"""Bytes that images fetched ahead from a remote storage may take."""
_END_OF_TAR = bytes(2 * HEADER_SIZE)


class _ImageNames(Sequence[str]):
    """Names of the images in messages: `train-000000.tar: a.jpg`."""

    def __init__(self, index: ShardIndex) -> None:
        self._index = index

    def __len__(self) -> int:
        return len(self._index)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[str, ...]: ...
    def __getitem__(self, place: int | slice) -> str | tuple[str, ...]:
        if isinstance(place, slice):
            return tuple(self[number] for number in range(*place.indices(len(self))))
        filename = self._index.filenames[place]
        return f"{self._index.shards[self._index.shard_numbers[place]].name}: {filename}"


class ShardImages:
    """An `ImageSource` of images in shards. Returns only content with the SHA-256 that the index states.

    Everything a run has cached of an image therefore stays valid even if the shards change, so all signatures are the same.

    Args:
        index: positions of the images in the shards.
        storage: folder of the shards, already checked.
        find_image: takes the image out of the sample's piece of the tar file; None: only the image is read, at the position that
            the index states.

    `close` ends its threads.
    """

    def __init__(self, index: ShardIndex, storage: ShardFolder, find_image: ImageFinder | None = None) -> None:
        self._index, self._storage, self._find_image = index, storage, find_image
        self.names = _ImageNames(index)
        """Names of the images in messages: `train-000000.tar: a.jpg`."""
        self._ahead = ReadAhead(self)

    @property
    def num_threads(self) -> int:
        return self._storage.num_threads

    @cached_property
    def num_ahead(self) -> int:
        """Number of images to fetch ahead. Their bytes have a bound."""
        if self._storage.is_local:
            return NUM_FETCHED_AHEAD
        mean = float(self._index.num_bytes.sum()) / max(1, len(self._index))
        return max(NUM_FETCHED_AHEAD, min(_NUM_AHEAD_REMOTE, int(_MAX_AHEAD / max(mean, 1))))

    def read(self, index: int) -> bytes:
        return self._ahead.get(index)

    def num_bytes(self, index: int) -> int:
        return int(self._index.num_bytes[index])

    def signature(self, index: int) -> Signature | None:
        return ()

    def local_file(self, index: int) -> str | None:
        return self._storage.place(self._shard(index)) if self._storage.is_local else None

    def digest(self, index: int) -> bytes | None:
        return self._index.sha256[index].tobytes()

    def expect(self, indices: Sequence[int]) -> None:
        self._ahead.fetch(indices)

    def close(self) -> None:
        """Ends the threads. The next `read` or `expect` starts new ones."""
        self._ahead.stop()

    def ranges(self, indices: Sequence[int]) -> list[list[int]]:
        """Returns the images by the requests that fetch them, those needed first at the beginning.

        Images that lie side by side in one shard share a request. So do others that have few samples between them. Files are read
        image by image: a bad sector of a disk then costs one image.
        """
        if self._storage.is_local:
            return [[index] for index in indices]
        position = {index: place for place, index in enumerate(indices)}
        ranges: list[list[int]] = []
        first, skipped = 0, 0
        shards = self._index.shard_numbers
        for index in sorted(indices, key=lambda index: (shards[index], self._index.offsets[index])):
            start, stop = self._span(index)
            if ranges and shards[ranges[-1][0]] == shards[index]:
                length = stop - first
                between = int(self._index.offsets[index]) - HEADER_SIZE - int(self._index.ends[ranges[-1][-1]])
                if length <= _MAX_RANGE and skipped + between <= _MAX_WASTE * length:
                    ranges[-1].append(index)
                    skipped += between
                    continue
            ranges.append([index])
            first, skipped = start, 0
        return sorted(ranges, key=lambda together: min(map(position.__getitem__, together)))

    def read_range(self, indices: Sequence[int]) -> dict[int, bytes]:
        """Returns the content of images of one shard, in the order of their positions, which are read at once."""
        start, stop = self._span(indices[0])[0], self._span(indices[-1])[1]
        with memoryview(self._storage.read(self._shard(indices[0]), start, stop - start)) as content:
            return {index: self._image_in(content, start, index) for index in indices}

    def _span(self, index: int) -> tuple[int, int]:
        """Returns the position of the bytes that are read for an image in its shard."""
        offset = int(self._index.offsets[index])
        if self._find_image is None:
            return offset, offset + int(self._index.num_bytes[index])
        return offset - HEADER_SIZE, int(self._index.ends[index])

    def _shard(self, index: int) -> str:
        """Returns the file name of an image's shard."""
        return self._index.shards[self._index.shard_numbers[index]].name

    def _image_in(self, content: memoryview, first: int, index: int) -> bytes:
        """Returns the checked image from bytes of its shard that begin at `first`."""
        start, stop = self._span(index)
        segment = bytes(content[start - first : stop - first])
        if self._find_image is not None:
            segment = self._find_image(segment, self.names[index])
        # Takes 0.2 ms. Without this check, other images of the same sizes would be trained on with these annotations.
        if hashlib.sha256(segment).digest() != self._index.sha256[index].tobytes():
            raise StorageError(
                f"{self._storage.place(self._shard(index))}: the bytes of {self._index.filenames[index]} do not match "
                f"{INDEX_NAME}: the shard belongs to another set, was replaced, or is damaged; copy the shards again together with "
                f"their {INDEX_NAME}, "
                "or write them again with scripts/prepare_data.py shards=true"
            )
        return segment


def load_shards(
    url: str,
    reader: ShardReader = "dali",
    report_path: Path | None = None,
    num_connections: int = DEFAULT_SHARD_CONNECTIONS,
) -> tuple[Manifest, AuditReport]:
    """Returns the manifest of a split in shards, and its report. Opens no image: all were checked when they were written.

    Args:
        url: folder of index.columns: a path, or s3://BUCKET/PREFIX.
        reader: dali reads images at the positions in the index; webdataset takes them out of the tar files with that package.
        report_path: JSON file for the report.
        num_connections: concurrent requests to a remote storage per process.

    Raises:
        StorageError: the index or a shard is missing, cut short, or cannot be reached.
        InputError: the index is damaged or has another version, or an extra is not installed.
    """
    find_image = webdataset_finder() if reader == "webdataset" else None
    storage = ShardFolder(url, num_connections)
    index = storage.read_index()
    storage.check_shards(index.shards)
    manifest = _manifest_of(index, ShardImages(index, storage, find_image))
    report = AuditReport(
        num_listed=len(manifest),
        num_images=len(manifest),
        num_words=manifest.polygons.num_polygons,
        num_ignored=int(manifest.polygons.ignore.sum()),
        num_skipped_words=0,
        num_not_annotated=0,
        findings=(),
    )
    if report_path is not None:
        report.write(report_path)
    return manifest, report


def _manifest_of(index: ShardIndex, images: ShardImages) -> Manifest:
    return Manifest(
        image_paths=images.names,
        filenames=index.filenames,
        sample_ids=index.sample_ids,
        stored_sizes=index.stored_sizes,
        orientations=index.orientations,
        polygons=index.polygons,
        num_listed=index.num_listed,
        source=images,
    )


def webdataset_finder() -> ImageFinder:
    """Returns a function that finds the image of a sample with the webdataset package.

    Raises:
        InputError: the package is not installed.
    """
    try:
        from webdataset.tariterators import group_by_keys, tar_file_expander
    except ModuleNotFoundError as error:
        raise InputError(
            "dataloader.shard_reader=webdataset needs the extra: uv sync --extra webdataset; shard_reader=dali needs nothing"
        ) from error

    def find(segment: bytes, name: str) -> bytes:
        # The sample, from its first header to its last padding, and the end marker together are a tar file of one sample.
        tar = {"url": name, "stream": io.BytesIO(segment + _END_OF_TAR)}
        try:
            samples: list[dict[str, Any]] = list(group_by_keys(tar_file_expander([tar])))
        except (tarfile.TarError, ValueError):
            return b""
        images = [sample[key] for sample in samples for key in ("jpg", "png") if key in sample]
        return images[0] if len(images) == 1 else b""

    return find
