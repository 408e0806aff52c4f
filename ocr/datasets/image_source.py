"""Where the encoded images of a split are: one place that answers for the bytes of image i, loose files or shards."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ocr.datasets.signature import Signature, signature_of


class ImageSource(Protocol):
    """The content of image files, by position in the manifest."""

    @property
    def num_threads(self) -> int:
        """Reads under way at a time that pay off even on one core."""

    def read(self, index: int) -> bytes:
        """The content of one file.

        Raises:
            OSError: this image cannot be read; the others may.
            StorageError: none can.
        """

    def num_bytes(self, index: int) -> int:
        """Size of the content; 0 of a file that is gone, which reading it will report."""

    def signature(self, index: int) -> Signature | None:
        """Numbers that change when the content does, got without reading it; None: it is gone."""

    def digest(self, index: int) -> bytes | None:
        """32 bytes that are others for any other content; None where it cannot be read."""

    def expect(self, indices: Sequence[int]) -> None:
        """These will be read next, in this order."""


@dataclass(frozen=True)
class ImageFiles:
    """Loose files."""

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

    def digest(self, index: int) -> bytes | None:
        try:
            return hashlib.sha256(self.read(index)).digest()
        except OSError:
            return None

    def expect(self, indices: Sequence[int]) -> None:
        """Nothing: the page cache reads ahead."""
