"""predictions.jsonl: the results of a prediction, one image a line, written as they come and continued after an interruption.

line 1       {"format": 1, "checkpoint": DIGEST, "images": DIGEST, "settings": DIGEST}    what the results depend on
line n + 2   {"image": NAME, ...}                                                         image n of the manifest

Lines are in the order of the manifest, so their number says which images are done.
"""

import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from ocr.errors import StorageError

log = logging.getLogger(__name__)

LINES_NAME = "predictions.jsonl"
EARLIER_NAME = f"earlier_{LINES_NAME}"
FLUSH_SECONDS = 2.0
"""Longest time that a written line waits in memory for another one."""
_FORMAT = 1


class PredictionLines:
    """Context manager that holds predictions.jsonl of a folder open for further lines.

    Whole lines of an interrupted prediction are kept if its header is the same. A cut line and all that follow it are dropped. A
    file with another header is renamed to earlier_predictions.jsonl. The caller keeps other processes out of the folder.

    Args:
        folder: where the file is; created if it is missing.
        header: digests of what the results depend on, by name.
        names: file names of all images, in the order of their lines.
    """

    def __init__(self, folder: Path, header: Mapping[str, str], names: Sequence[str]) -> None:
        self.path = folder / LINES_NAME
        self.num_done = 0
        """Number of images that have a line."""
        self._header = {"format": _FORMAT, **header}
        self._names = names
        self._file: BinaryIO | None = None
        self._flushed = time.monotonic()

    def __enter__(self) -> "PredictionLines":
        self.path.parent.mkdir(parents=True, exist_ok=True)
        end = self._find_whole_lines()
        self._file = self.path.open("ab")
        if end:
            self._file.truncate(end)
            log.info("%s: %d of %d images are done, continuing after them", self.path, self.num_done, len(self._names))
        else:
            self._write(json.dumps(self._header).encode() + b"\n")
            self.flush()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._file is None:
            return
        try:
            self._file.close()
        except OSError as close_error:
            if error is None:
                raise self._explained(close_error) from close_error

    def append(self, line: bytes) -> None:
        """Adds the line of the next image.

        Raises:
            StorageError: the file cannot be written.
        """
        self._write(line)
        self.num_done += 1
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Hands all lines to the system.

        Raises:
            StorageError: the file cannot be written.
        """
        self._flushed = time.monotonic()
        try:
            if self._file is not None:
                self._file.flush()
        except OSError as error:
            raise self._explained(error) from error

    def read(self) -> Iterator[dict[str, Any]]:
        """Yields what the lines of all images done hold, in the order of the images."""
        self.flush()
        with self.path.open("rb") as file:
            file.readline()
            for _ in range(self.num_done):
                yield json.loads(file.readline())

    def _find_whole_lines(self) -> int:
        """Returns the bytes of the header and the whole lines, and counts these lines; 0: the file is written from the start."""
        try:
            file = self.path.open("rb")
        except FileNotFoundError:
            return 0
        with file:
            differing = self._differing(file.readline())
            if not differing:
                return self._end_of_whole_lines(file)
        earlier = self.path.replace(self.path.with_name(EARLIER_NAME))
        log.warning(
            "%s was written with %s: starting anew; the earlier lines are in %s",
            self.path,
            " and ".join(differing),
            earlier.name,
        )
        return 0

    def _end_of_whole_lines(self, file: BinaryIO) -> int:
        end = file.tell()
        for line in file:
            if self.num_done == len(self._names) or not _is_whole(line, self._names[self.num_done]):
                log.warning("%s: line %d is cut; its image is predicted again", self.path, self.num_done + 2)
                break
            self.num_done += 1
            end += len(line)
        return end

    def _differing(self, line: bytes) -> list[str]:
        """Returns what a file with this first line was written with that differs now."""
        found = _parsed(line)
        if found is None or found.get("format") != _FORMAT:
            return ["a header that this version cannot read"]
        return [f"other {name}" for name, digest in self._header.items() if found.get(name) != digest]

    def _write(self, line: bytes) -> None:
        if self._file is None:
            raise RuntimeError("lines are written inside the `with` block only")
        try:
            self._file.write(line)
        except OSError as error:
            raise self._explained(error) from error

    def _explained(self, error: OSError) -> StorageError:
        return StorageError(
            f"{self.path}: cannot be written: {error.strerror or error}; make room and give the same command again, which "
            "continues after the images that are done"
        )


def _is_whole(line: bytes, name: str) -> bool:
    found = _parsed(line)
    return found is not None and found.get("image") == name


def _parsed(line: bytes) -> dict[str, Any] | None:
    """Returns the object in a line; None if the line is cut or holds something else."""
    try:
        found = json.loads(line) if line.endswith(b"\n") else None
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
