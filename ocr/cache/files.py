"""The disk tier: one file per entry, named by its key.

A file is written under a temporary name, then renamed, and carries its key, its length and a checksum. So several runs may share a
folder, a run may be killed at any moment, and a truncated, zeroed or foreign file is noticed when it is read. Files are read, not
memory-mapped: a truncated mapped file would kill the process, and reading lets the checksum cover exactly the bytes that are
served.
"""

import errno
import logging
import os
import struct
import threading
import time
import zlib
from collections import deque
from collections.abc import Iterable, Sequence
from io import FileIO
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ocr.errors import InputError
from ocr.file_lock import lock_of_open_file

log = logging.getLogger(__name__)

Bytes = npt.NDArray[np.uint8]
Entry = tuple[float, int, Path]
"""Last use, bytes and path of an entry."""

MAGIC = b"DBNETTC1"
HEADER = struct.Struct("<8s32sQI")
"""Magic with the version of the format, key, number of bytes that follow, their CRC-32."""
WRITES_BETWEEN_SCANS = 16
"""Smallest number of writes between two listings of the folder, which other runs fill too."""
SUFFIX = ".entry"
TEMPORARY_SUFFIX = ".writing"


class EntryError(Exception):
    """A file of the cache cannot be used; the message says why."""


class EntryFiles:
    """The entries in a folder. When the budget is spent, the least recently used are deleted. Thread-safe.

    Args:
        directory: created if it does not exist; any number of runs may share it.
        budget: bytes that all entries in the folder may take, including those of other runs.

    Raises:
        InputError: the folder cannot be created.
    """

    def __init__(self, directory: str | Path, budget: int) -> None:
        self.directory = Path(directory).resolve()
        self.budget = budget
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cache_config.directory={directory}: cannot be created: {error.strerror}") from error
        self._lock = threading.Lock()
        self._in_use: set[str] = set()
        self._started = time.time()
        self._num_unlisted_writes = 0
        """Number of writes since the folder was last listed."""
        self._oldest: deque[Entry] = deque()
        """Entries found then that have not been looked at since, least recently used first."""
        self._stopped: str | None = None
        self._remove_abandoned()
        self.num_bytes = 0
        """Bytes of all entries in the folder, as far as this process knows."""
        self._list()

    def has(self, key: bytes) -> bool:
        """Returns whether there is a file with this key. Only reading it shows whether it is complete."""
        return self._path(key).is_file()

    def mark_used(self, keys: Iterable[bytes]) -> None:
        """Replaces the set of entries in use: this process does not delete them, and other processes delete them last."""
        names = set()
        for key in keys:
            names.add(self._path(key).name)
            try:
                os.utime(self._path(key))
            except OSError:  # deleted by another run meanwhile, or the folder cannot be written
                continue
        with self._lock:
            self._in_use = names

    def read(self, key: bytes, parts: Sequence[Bytes]) -> None:
        """Fills the contiguous arrays `parts` with the bytes of an entry.

        Raises:
            EntryError: the file does not exist or is not this entry; the content of `parts` is then undefined.
        """
        path = self._path(key)
        size = sum(part.nbytes for part in parts)
        try:
            with path.open("rb", buffering=0) as file:
                header = file.read(HEADER.size)
                checksum = _checked_header(path, header, key, size, os.fstat(file.fileno()).st_size)
                for part in parts:
                    _read_into(file, part, path)
        except OSError as error:
            raise EntryError(f"{path}: cannot be read: {error.strerror}") from error
        if _checksum(parts) != checksum:
            raise EntryError(f"{path}: its bytes do not match their checksum")

    def write(self, key: bytes, parts: Sequence[Bytes]) -> bool:
        """Writes an entry. Returns False, with one warning per run, if there is no room or the folder cannot be written."""
        if self._stopped is not None:
            return False
        size = HEADER.size + sum(part.nbytes for part in parts)
        path = self._path(key)
        temporary = path.with_name(f"{path.stem}.{os.getpid()}-{threading.get_ident()}{TEMPORARY_SUFFIX}")
        header = HEADER.pack(MAGIC, key, size - HEADER.size, _checksum(parts))
        try:
            if not self._make_room(size):
                return False
            _write_file(temporary, [np.frombuffer(header, np.uint8), *parts])
            temporary.replace(path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            # ENOENT, EAGAIN: another run that has just started removed the temporary file. Only this entry is lost.
            if error.errno not in (errno.ENOENT, errno.EAGAIN) or not self.directory.is_dir():
                self._stop(f"{error.strerror}; entries that are not on disk are recomputed each epoch")
            return False
        with self._lock:
            self._in_use.add(path.name)
            self.num_bytes += size
        return True

    def remove(self, key: bytes) -> None:
        """Deletes an entry."""
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

    def _list(self) -> None:
        """Lists the entries again: other runs write and delete too."""
        found = list_entries(self.directory)
        self._oldest = deque(sorted(found))
        self._num_listed = len(found)
        self._num_unlisted_writes = 0
        self.num_bytes = sum(size for _, size, _ in found)

    def _make_room(self, size: int) -> bool:
        with self._lock:
            self._num_unlisted_writes += 1
            # A listing costs as much as the folder has entries, so it may come only once in about as many writes.
            if self._num_unlisted_writes >= max(WRITES_BETWEEN_SCANS, self._num_listed // 4):
                self._list()
            has_room = self._delete_oldest(size)
            if not has_room and self._num_unlisted_writes:
                self._list()
                has_room = self._delete_oldest(size)
        if not has_room:
            self._stop(f"the budget of {self.budget:,} bytes is spent; the other entries are recomputed each epoch")
        return has_room

    def _delete_oldest(self, size: int) -> bool:
        """Deletes listed entries until there is room, and returns whether there is."""
        while self.num_bytes + size > self.budget and self._oldest:
            last_use, entry_size, path = self._oldest.popleft()
            # An entry used since this run began belongs to a concurrent run, which marks its entries each epoch.
            if path.name in self._in_use or last_use >= self._started or _last_use(path) != last_use:
                continue
            path.unlink(missing_ok=True)
            self.num_bytes -= entry_size
        return self.num_bytes + size <= self.budget

    def _stop(self, reason: str) -> None:
        with self._lock:
            is_first, self._stopped = self._stopped is None, reason
        if is_first:
            log.warning("disk cache %s: writing stops: %s", self.directory, reason)

    def _remove_abandoned(self) -> None:
        """Deletes temporary files of killed runs. A living writer holds a lock on its file."""
        for path in self.directory.glob(f"*{TEMPORARY_SUFFIX}"):
            try:
                with path.open("rb") as file:
                    lock_of_open_file(file.fileno())
                    path.unlink(missing_ok=True)
            except OSError:
                continue


def list_entries(directory: Path) -> list[Entry]:
    """Returns the entries in a folder, without those that another run deletes meanwhile."""
    found: list[Entry] = []
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.name.endswith(SUFFIX):
                try:
                    status = entry.stat()
                except FileNotFoundError:
                    continue
                found.append((status.st_mtime, status.st_size, Path(entry.path)))
    return found


def _last_use(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None


def _checked_header(path: Path, header: bytes, key: bytes, size: int, file_size: int) -> int:
    """Returns the checksum in the header.

    Raises:
        EntryError: the header does not belong to this entry.
    """
    if len(header) < HEADER.size:
        raise EntryError(f"{path}: has {file_size} bytes; expected {HEADER.size + size}")
    magic, found_key, found_size, checksum = HEADER.unpack(header)
    if magic != MAGIC:
        raise EntryError(f"{path}: starts with {magic!r}; expected {MAGIC!r}")
    if found_key != key:
        raise EntryError(f"{path}: holds the entry of another key, {found_key.hex()}")
    if found_size != size or file_size != HEADER.size + size:
        raise EntryError(f"{path}: has {file_size} bytes; expected {HEADER.size + size}")
    return int(checksum)


def _read_into(file: FileIO, part: Bytes, path: Path) -> None:
    view = part.data.cast("B")
    while view:
        num_read = file.readinto(view)
        if not num_read:
            raise EntryError(f"{path}: ends early")
        view = view[num_read:]


def _write_file(path: Path, parts: Sequence[Bytes]) -> None:
    with path.open("xb", buffering=0) as file:
        try:
            lock_of_open_file(file.fileno())
        except BlockingIOError:
            raise
        except OSError:  # no locks here: nobody deletes abandoned files then, so this one is safe
            pass
        for part in parts:
            view = part.data.cast("B")
            while view:
                view = view[file.write(view) :]


def _checksum(parts: Sequence[Bytes]) -> int:
    checksum = 0
    for part in parts:
        checksum = zlib.crc32(part.data, checksum)
    return checksum
