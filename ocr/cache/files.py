"""The disk tier: one file an entry, named by its key.

Content and name cannot disagree: a file is written under a temporary name, then renamed, and carries its key, its length
and a checksum. So two runs may share a folder, a run may be killed at any moment, and a file that is cut short, zeroed or
foreign is noticed when it is read. Files are read into place, not mapped: one that is cut short while it is mapped would
bring the process down, and here the checksum is taken of the very bytes that are served.
"""

import errno
import fcntl
import logging
import os
import struct
import threading
import time
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ocr.errors import InputError

log = logging.getLogger(__name__)

Bytes = npt.NDArray[np.uint8]

MAGIC = b"DBNETTC1"
HEADER = struct.Struct("<8s32sQI")
"""Magic, key, bytes that follow, their CRC-32."""
WRITES_BETWEEN_LOOKS = 16
"""After so many writes the folder is looked at again: how full other runs have made it."""
SUFFIX = ".entry"
TEMPORARY_SUFFIX = ".writing"


class EntryError(Exception):
    """A file of the cache is not what its name says; the message tells in which way."""


class EntryFiles:
    """Entries in a folder, the least recently used dropped when the budget is spent. Safe to use from several threads.

    Args:
        directory: made if it is not there; may be shared by any number of runs.
        budget: bytes that all entries in it may have, those of other runs included.
    """

    def __init__(self, directory: str | Path, budget: int) -> None:
        self.directory = Path(directory).resolve()
        self.budget = budget
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cache_config.directory={directory}: cannot be made: {error.strerror}") from error
        self._lock = threading.Lock()
        self._in_use: set[str] = set()
        self._started = time.time()
        self._num_writes = 0
        self._stopped: str | None = None
        self._remove_abandoned()
        self.num_bytes = sum(size for _, size, _ in self._entries())
        """Of all entries in the folder, as far as this process knows."""

    def has(self, key: bytes) -> bool:
        """Whether there is an entry of this key; whether it is whole shows when it is read."""
        return self._path(key).is_file()

    def mark_used(self, keys: Iterable[bytes]) -> None:
        """Keeps these entries from being dropped by this process, and dropped last by others."""
        names = set()
        for key in keys:
            names.add(self._path(key).name)
            try:
                os.utime(self._path(key))
            except OSError:  # dropped by another run meanwhile, or a folder that cannot be written
                continue
        with self._lock:
            self._in_use = names

    def read(self, key: bytes, parts: Sequence[Bytes]) -> None:
        """Fills `parts`, contiguous arrays, with the entry's bytes.

        Raises:
            EntryError: there is no such file, or it is not the entry's; `parts` then hold anything.
        """
        path = self._path(key)
        size = sum(part.nbytes for part in parts)
        try:
            with path.open("rb", buffering=0) as file:
                header = file.read(HEADER.size)
                checksum = _checked_header(path, header, key, size, os.fstat(file.fileno()).st_size)
                for part in parts:
                    _read_into(file.fileno(), part, path)
        except OSError as error:
            raise EntryError(f"{path}: cannot be read: {error.strerror}") from error
        if _checksum(parts) != checksum:
            raise EntryError(f"{path}: its bytes do not have the checksum they were written with")

    def write(self, key: bytes, parts: Sequence[Bytes]) -> bool:
        """Writes an entry; False where it could not be: no room, or the folder cannot be written (said once in the log)."""
        size = HEADER.size + sum(part.nbytes for part in parts)
        if self._stopped is not None or not self._make_room(size):
            return False
        path = self._path(key)
        temporary = path.with_name(f"{path.stem}.{os.getpid()}-{threading.get_ident()}{TEMPORARY_SUFFIX}")
        header = HEADER.pack(MAGIC, key, size - HEADER.size, _checksum(parts))
        try:
            _write_file(temporary, [np.frombuffer(header, np.uint8), *parts])
            temporary.replace(path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            # Cleaned away by another run that has just started: only this entry is lost.
            if error.errno not in (errno.ENOENT, errno.EAGAIN):
                self._stop(
                    f"{error.strerror}; {self.num_bytes:,} bytes of entries are kept, the rest is made in each epoch"
                )
            return False
        with self._lock:
            self._in_use.add(path.name)
            self.num_bytes += size
        return True

    def remove(self, key: bytes) -> None:
        """Drops an entry that turned out to be bad."""
        path = self._path(key)
        try:
            size = path.stat().st_size
            path.unlink()
        except OSError:
            return
        with self._lock:
            self.num_bytes -= size

    def _path(self, key: bytes) -> Path:
        return self.directory / f"{key.hex()}{SUFFIX}"

    def _entries(self) -> list[tuple[float, int, Path]]:
        """(last use, bytes, path) of all entries, oldest first."""
        found = []
        with os.scandir(self.directory) as entries:
            for entry in entries:
                if entry.name.endswith(SUFFIX):
                    try:
                        status = entry.stat()
                    except FileNotFoundError:
                        continue
                    found.append((status.st_mtime, status.st_size, Path(entry.path)))
        return sorted(found)

    def _make_room(self, size: int) -> bool:
        with self._lock:
            self._num_writes += 1
            is_known = self._num_writes % WRITES_BETWEEN_LOOKS != 0  # other runs write and drop too
            if is_known and self.num_bytes + size <= self.budget:
                return True
            entries = self._entries()
            self.num_bytes = sum(entry_size for _, entry_size, _ in entries)
            for last_use, entry_size, path in entries:
                if self.num_bytes + size <= self.budget:
                    break
                # Since this run began: in use by a run beside it, which marks its entries in each epoch.
                if path.name not in self._in_use and last_use < self._started:
                    path.unlink(missing_ok=True)
                    self.num_bytes -= entry_size
            has_room = self.num_bytes + size <= self.budget
        if not has_room:
            self._stop(f"the budget of {self.budget:,} bytes is spent; the rest is made in each epoch")
        return has_room

    def _stop(self, reason: str) -> None:
        with self._lock:
            is_first, self._stopped = self._stopped is None, reason
        if is_first:
            log.warning("disk cache %s: no more entries are written: %s", self.directory, reason)

    def _remove_abandoned(self) -> None:
        """Removes what killed runs were writing. A file under way is locked by its writer."""
        for path in self.directory.glob(f"*{TEMPORARY_SUFFIX}"):
            try:
                with path.open("rb") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    path.unlink(missing_ok=True)
            except OSError:
                continue


def _checked_header(path: Path, header: bytes, key: bytes, size: int, file_size: int) -> int:
    """The checksum in the header."""
    if len(header) < HEADER.size:
        raise EntryError(f"{path}: has {file_size} bytes; {HEADER.size + size} are expected")
    magic, found_key, found_size, checksum = HEADER.unpack(header)
    if magic != MAGIC:
        raise EntryError(f"{path}: starts with {magic!r}; {MAGIC!r} is expected")
    if found_key != key:
        raise EntryError(f"{path}: is the entry of the key {found_key.hex()}")
    if found_size != size or file_size != HEADER.size + size:
        raise EntryError(f"{path}: has {file_size} bytes; {HEADER.size + size} are expected")
    return int(checksum)


def _read_into(descriptor: int, part: Bytes, path: Path) -> None:
    view = part.data.cast("B")
    while view:
        num_read = os.readv(descriptor, [view])
        if num_read == 0:
            raise EntryError(f"{path}: ends early")
        view = view[num_read:]


def _write_file(path: Path, parts: Sequence[Bytes]) -> None:
    with path.open("xb", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for part in parts:
            view = part.data.cast("B")
            while view:
                view = view[file.write(view) :]


def _checksum(parts: Sequence[Bytes]) -> int:
    checksum = 0
    for part in parts:
        checksum = zlib.crc32(part.data, checksum)
    return checksum
