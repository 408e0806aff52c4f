"""Writes files completely or not at all."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ocr.errors import InputError, StorageError

_LONGEST_NAME = 240
"""Bytes of a name that leave room for the rest of a temporary name: file systems take 255. Longer ones are hashed."""


def refuse_unwritable(folder: Path, setting: str) -> None:
    """Refuses, before a command's work, a folder that it could not write to after it. The folder may be missing; nothing is left.

    Args:
        setting: the setting that chooses the folder, as key=value.

    Raises:
        InputError: it is a file, or no file can be made there.
    """
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(place))
    if not there.is_dir():
        raise InputError(f"{setting}: found a file, {there}, expected a folder; choose another place")
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise InputError(f"{setting}: {there} cannot be written to: {error.strerror}; choose another place") from error


def write_atomically(path: Path, content: bytes, mtime_ns: int | None = None) -> None:
    """Writes a file completely or, after an error, not at all.

    Args:
        mtime_ns: modification time of the file in nanoseconds; None: now.

    Raises:
        OSError: the file cannot be written; an older file of that name is unchanged.
    """
    with atomic_file(path, mtime_ns) as file:
        file.write(content)


def write_durably(path: Path, content: bytes) -> None:
    """Writes a file of a run completely or not at all, and waits until the disk has it.

    Raises:
        StorageError: the file cannot be written; an older file of that name is unchanged.
    """
    with explained_write(path), atomic_file(path, durable=True) as file:
        file.write(content)


@contextmanager
def explained_write(path: Path, then: str = "start again from the last checkpoint") -> Iterator[None]:
    """Turns a failed write of `path` inside the `with` block into an error that says what is left on the disk.

    Args:
        then: what to do once there is room.

    Raises:
        StorageError: an operating system error, also one that another error of the library that wrote the file hides.
    """
    try:
        yield
    except Exception as error:
        cause = _os_error(error)
        if cause is None:
            raise
        kept = "the earlier file of that name is unchanged" if path.is_file() else "no file of that name was written"
        raise StorageError(
            f"{path}: cannot be written: {cause.strerror or cause}{_free_space(path)}; {kept}. "
            f"Make room or choose another folder, and {then}"
        ) from error


@contextmanager
def atomic_file(
    path: Path, mtime_ns: int | None = None, *, durable: bool = False, shared: bool = False
) -> Iterator[BinaryIO]:
    """Yields a file with a temporary name beside `path`, renamed at the end and removed after an error. Creates the folder.

    The temporary name is always the same, so the next run overwrites what a killed run left. Only one process at a time may write
    a file, unless it is `shared`.

    Args:
        mtime_ns: modification time of the file in nanoseconds; None: now.
        durable: wait until the disk has the content before the renaming, and the new name after it.
        shared: several processes may write the file at once, all with the same content. The temporary name is a random one:
            containers that share a folder may have equal process ids.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    encoded = os.fsencode(path.name)
    name = path.name if len(encoded) <= _LONGEST_NAME else hashlib.sha256(encoded).hexdigest()
    temporary = path.with_name(f".{name}.{os.urandom(4).hex()}.part" if shared else f".{name}.part")
    try:
        with temporary.open("wb") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        if mtime_ns is not None:
            os.utime(temporary, ns=(mtime_ns, mtime_ns))
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Waits until the disk has the names of the folder's files, where a folder can be opened (Windows opens none)."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _os_error(error: BaseException | None) -> OSError | None:
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error


def _free_space(path: Path) -> str:
    try:
        return f" ({shutil.disk_usage(path.parent).free / 1e6:,.0f} MB are free there)"
    except OSError:
        return ""
