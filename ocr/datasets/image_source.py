"""The encoded images of a split by position, whether they are loose files or lie in shards."""

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from dali_pipelines.signature import Signature, signature_of

T = TypeVar("T")

_NUM_THREADS = 8
_AT_ONCE = 64
"""Number of files that a thread asks about in a row."""


def ask_each(ask: Callable[[int], T], indices: Sequence[int]) -> list[T]:
    """Returns `ask(index)` of each index, in order. Threads hide the time that a network file system takes to answer."""
    parts = [indices[first : first + _AT_ONCE] for first in range(0, len(indices), _AT_ONCE)]
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        return [
            answer for answers in pool.map(lambda part: [ask(index) for index in part], parts) for answer in answers
        ]


class ImageSource(Protocol):
    """Encoded images, by position in the manifest."""

    @property
    def num_threads(self) -> int:
        """Number of reads worth running at once, even on one core."""

    def read(self, index: int) -> bytes:
        """Returns the content of one file.

        Raises:
            OSError: this image cannot be read; others may be readable.
            StorageError: the storage as a whole cannot be read.
        """

    def num_bytes(self, index: int) -> int:
        """Returns the size of the content; 0 for a missing file, which `read` reports."""

    def signature(self, index: int) -> Signature | None:
        """Returns numbers that change with the content, without reading it; None for a missing file."""

    def local_file(self, index: int) -> str | None:
        """Returns the path of the file that an image is read from; None if it is read over a network protocol."""

    def digest(self, index: int) -> bytes | None:
        """Returns the SHA-256 of the content; None if it cannot be read."""

    def expect(self, indices: Sequence[int]) -> None:
        """Announces the images that will be read next, in this order."""


@dataclass(frozen=True)
class ImageFiles:
    """An `ImageSource` of loose files."""

    paths: Sequence[str]
    num_threads: int = 1

    def read(self, index: int) -> bytes:
        return Path(self.paths[index]).read_bytes()

    def num_bytes(self, index: int) -> int:
        try:
            return os.stat(self.paths[index]).st_size
        except OSError:
            return 0

    def signature(self, index: int) -> Signature | None:
        return signature_of(self.paths[index])

    def local_file(self, index: int) -> str | None:
        return self.paths[index]

    def digest(self, index: int) -> bytes | None:
        try:
            return hashlib.sha256(self.read(index)).digest()
        except OSError:
            return None

    def expect(self, indices: Sequence[int]) -> None:
        """Does nothing: the page cache reads ahead."""
