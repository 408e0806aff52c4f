"""Writes the prepared annotations in our own format, block after block, and remembers what they were made from."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from dali_pipelines.signature import signature_of
from ocr.atomic_write import atomic_file, write_atomically
from ocr.datasets.formats.upstage import upstage_document
from ocr.datasets.manifest import Manifest
from ocr.file_names import json_in_utf8

_BLOCK = 512
"""Images whose annotations are in memory at once."""


def write_upstage(
    path: Path, manifest: Manifest, indices: Sequence[int], *, canonical: bool, before_change: Callable[[], None]
) -> None:
    """Writes the annotations of images of a manifest, unless the file has this content already.

    A hidden file beside `path` says what it was made from, so that nothing is formatted again while that has not changed.

    Args:
        path: file to write.
        manifest: checked annotations.
        indices: positions in the manifest.
        canonical: coordinates of the upright images; otherwise of the files as stored.
        before_change: called before the file changes.
    """
    stamp, origin = path.with_name(f".{path.name}.made"), _digest(manifest, indices, canonical)
    if _is_stamped(stamp, [origin, list(signature_of(str(path)) or ())]):
        return
    if not _has_content(path, _blocks(manifest, indices, canonical)):
        before_change()
        with atomic_file(path) as file:
            for block in _blocks(manifest, indices, canonical):
                file.write(block)
    # Not `state_of`: the file is recent, but the folder is locked against other writers.
    write_atomically(stamp, json.dumps([origin, signature_of(str(path))]).encode())


def _digest(manifest: Manifest, indices: Sequence[int], canonical: bool) -> str:
    digest = hashlib.sha256(f"1 {canonical} {len(manifest)}".encode())
    for name in manifest.filenames:
        digest.update(f"{name}\0".encode(errors="surrogatepass"))
    polygons = manifest.polygons
    for array in (
        np.asarray(indices, np.int64),
        manifest.stored_sizes,
        manifest.orientations,
        polygons.vertices,
        polygons.vertex_starts,
        polygons.polygon_starts,
        polygons.ignore,
    ):
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _is_stamped(stamp: Path, expected: list[object]) -> bool:
    try:
        return bool(json.loads(stamp.read_bytes()) == expected)
    except (OSError, ValueError):
        return False


def _blocks(manifest: Manifest, indices: Sequence[int], canonical: bool) -> Iterator[bytes]:
    """Yields the bytes of `json.dumps` of the whole document."""
    yield b'{"images": {'
    for first in range(0, len(indices), _BLOCK):
        document = upstage_document(manifest, indices[first : first + _BLOCK], canonical=canonical)
        members = json.dumps(document["images"], ensure_ascii=False)[1:-1]
        yield json_in_utf8(f"{', ' if first else ''}{members}")
    yield b"}}"


def _has_content(path: Path, blocks: Iterator[bytes]) -> bool:
    try:
        with path.open("rb") as file:
            return all(file.read(len(block)) == block for block in blocks) and not file.read(1)
    except FileNotFoundError:
        return False
