"""Writes a split as shards. Equal images and annotations give equal bytes, so existing shards can be kept."""

import hashlib
import json
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ocr.atomic_write import atomic_file, write_atomically
from ocr.datasets.formats.upstage import upstage_document
from ocr.datasets.manifest import Manifest
from ocr.datasets.names import Names
from ocr.datasets.shards.index import HEADER_SIZE, INDEX_NAME, OLD_INDEX_NAME, Shard, ShardIndex
from ocr.errors import InputError
from ocr.file_names import json_in_utf8
from ocr.progress import followed

_END = bytes(2 * HEADER_SIZE)
_PNG_START = b"\x89PNG"


@dataclass(frozen=True)
class _PlacedSample:
    """One sample and its position in a shard."""

    index: int
    """Position in the manifest."""
    offset: int
    """Position of the image's first byte."""
    num_bytes: int
    """Size of the image."""
    json_offset: int
    json_bytes: int

    @property
    def end(self) -> int:
        return self.json_offset + _padded(self.json_bytes)


@dataclass(frozen=True)
class PlacedShard:
    """A shard that is laid out and can be written."""

    number: int
    samples: Sequence[_PlacedSample]
    annotations: Sequence[bytes]
    """The .json member of each sample."""


class ShardWriter:
    """Writes the shards of one split, then their index.

        for shard in writer.placed():
            writer.write(shard)    # in any order, or in threads
        writer.finish()

    The index is removed before the first shard changes and written last, so that an existing index always fits.

    Args:
        manifest: images and annotations; the bytes of the images are not changed.
        folder: folder for this split alone.
        split: start of the file names: train gives train-000000.tar.
        shard_size: size of a shard in bytes; it ends with the sample that reaches this size.
    """

    def __init__(self, manifest: Manifest, folder: Path, split: str, shard_size: int) -> None:
        self.folder = folder
        self._manifest, self._split, self._shard_size = manifest, split, shard_size
        self._shards: list[Sequence[_PlacedSample]] = []
        """Samples of each shard that is laid out."""
        self._extensions = [""] * len(manifest)
        self._sha256 = [b""] * len(manifest)

    @property
    def names(self) -> list[str]:
        """File names of the shards that are laid out."""
        return [self._name(number) for number in range(len(self._shards))]

    def placed(self, description: str = "Writing shards") -> Iterator[PlacedShard]:
        """Lays out and yields one shard after the other, and shows the progress in images under this description."""
        samples: list[_PlacedSample] = []
        annotations: list[bytes] = []
        start, num_images = 0, len(self._manifest)
        for index in followed(range(num_images), description, num_images):
            offset, num_bytes = start + HEADER_SIZE, self._manifest.images.num_bytes(index)
            json_offset = offset + _padded(num_bytes) + HEADER_SIZE
            annotations.append(_annotation(self._manifest, index))
            samples.append(_PlacedSample(index, offset, num_bytes, json_offset, len(annotations[-1])))
            start = samples[-1].end
            if start >= self._shard_size or index == num_images - 1:
                self._shards.append(samples)
                yield PlacedShard(len(self._shards) - 1, samples, annotations)
                samples, annotations, start = [], [], 0

    def write_all(self) -> list[int | None]:
        """Writes all shards, one after the other, and the index. Returns what `write` does for each."""
        written = [self.write(shard) for shard in self.placed()]
        self.finish()
        return written

    def write(self, shard: PlacedShard) -> int | None:
        """Writes one shard and its DALI index. Returns the bytes written; None if the shard exists with the same content.

        Raises:
            OSError: the folder or the disk cannot be written to.
            InputError: an image can no longer be read.
        """
        path = self.folder / self._name(shard.number)
        num_bytes = None
        if not self._is_there(path, shard):
            for name in (INDEX_NAME, OLD_INDEX_NAME):
                (self.folder / name).unlink(missing_ok=True)
            with atomic_file(path) as file:
                num_bytes = sum(file.write(part) for part in self._parts(shard))
        _write_if_new(path.with_suffix(".idx"), self._dali_index(shard.samples))
        return num_bytes

    def finish(self) -> None:
        """Removes the shards of an earlier run that are not among these, and writes the index. Call after all shards are written.

        An unchanged index is written too: its modification time shows that it is no older than the annotations.
        """
        ours = {Path(name).stem for name in self.names}
        pattern = re.compile(rf"{re.escape(self._split)}-\d{{6,}}\.(tar|idx)")
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in self.folder.iterdir():
            if pattern.fullmatch(path.name) and path.stem not in ours:
                path.unlink()
        (self.folder / OLD_INDEX_NAME).unlink(missing_ok=True)
        self._index().write(self.folder / INDEX_NAME)

    def _name(self, number: int) -> str:
        return f"{self._split}-{number:06d}.tar"

    def _is_there(self, path: Path, shard: PlacedShard) -> bool:
        try:
            if path.stat().st_size != _shard_bytes(shard.samples):
                return False
            with path.open("rb") as file:
                return all(file.read(len(part)) == part for part in self._parts(shard))
        except FileNotFoundError:
            return False

    def _parts(self, shard: PlacedShard) -> Iterator[bytes]:
        """Yields the bytes of a shard, piece by piece."""
        for sample, annotation in zip(shard.samples, shard.annotations, strict=True):
            content = self._read(sample)
            self._sha256[sample.index] = hashlib.sha256(content).digest()
            self._extensions[sample.index] = "png" if content.startswith(_PNG_START) else "jpg"
            image_name, json_name = self._member_names(sample)
            yield from _member(image_name, content)
            yield from _member(json_name, annotation)
        yield _END

    def _read(self, sample: _PlacedSample) -> bytes:
        name = self._manifest.image_paths[sample.index]
        try:
            content = self._manifest.images.read(sample.index)
        except OSError as error:
            raise InputError(f"{name}: cannot be read: {error.strerror or error}") from error
        if len(content) != sample.num_bytes:
            raise InputError(
                f"{name}: {len(content)} bytes, but {sample.num_bytes} when the shards were laid out: the file has changed; run "
                "the command again"
            )
        return content

    def _member_names(self, sample: _PlacedSample) -> tuple[str, str]:
        key = f"{self._manifest.sample_ids[sample.index]:06d}"
        return f"{key}.{self._extensions[sample.index]}", f"{key}.json"

    def _dali_index(self, samples: Sequence[_PlacedSample]) -> bytes:
        """Returns format v1.2: the number of samples, then one line per sample: extension, offset, size and name of each member."""
        lines = [f"v1.2 {len(samples)}"]
        for sample in samples:
            image_name, json_name = self._member_names(sample)
            image = f"{self._extensions[sample.index]} {sample.offset} {sample.num_bytes} {image_name}"
            lines.append(f"{image} json {sample.json_offset} {sample.json_bytes} {json_name}")
        return "".join(f"{line}\n" for line in lines).encode()

    def _index(self) -> ShardIndex:
        manifest = self._manifest
        samples = [sample for shard in self._shards for sample in shard]
        counts = [len(shard) for shard in self._shards]
        return ShardIndex(
            num_listed=manifest.num_listed,
            shards=[
                Shard(name=name, num_bytes=_shard_bytes(samples))
                for name, samples in zip(self.names, self._shards, strict=True)
            ],
            filenames=Names.of(manifest.filenames),
            sample_ids=manifest.sample_ids,
            shard_numbers=np.repeat(np.arange(len(counts), dtype=np.int32), counts),
            offsets=np.array([sample.offset for sample in samples], np.int64),
            num_bytes=np.array([sample.num_bytes for sample in samples], np.int64),
            ends=np.array([sample.end for sample in samples], np.int64),
            sha256=np.frombuffer(b"".join(self._sha256), np.uint8).reshape(-1, 32),
            stored_sizes=manifest.stored_sizes,
            orientations=manifest.orientations,
            polygons=manifest.polygons,
        )


def _annotation(manifest: Manifest, index: int) -> bytes:
    """Returns the .json member: the file name and its Upstage entry, in pixels of the file as stored."""
    ((filename, entry),) = upstage_document(manifest, [index], canonical=False)["images"].items()
    orientation = int(manifest.orientations[index])
    member = {"filename": filename, "orientation": orientation} | entry
    return json_in_utf8(json.dumps(member, ensure_ascii=False))


def _member(name: str, content: bytes) -> Iterator[bytes]:
    """Yields a tar header without times and owners, the content, and padding."""
    header = tarfile.TarInfo(name)
    header.size = len(content)
    yield header.tobuf(tarfile.USTAR_FORMAT)
    yield content
    yield bytes(_padded(len(content)) - len(content))


def _padded(num_bytes: int) -> int:
    return -(-num_bytes // HEADER_SIZE) * HEADER_SIZE


def _shard_bytes(samples: Sequence[_PlacedSample]) -> int:
    return samples[-1].end + len(_END)


def _write_if_new(path: Path, content: bytes) -> None:
    if not path.is_file() or path.read_bytes() != content:
        write_atomically(path, content)
