"""Lists the files of an image folder, and finds the file that a name in annotations means.

The same name may be written in several ways: a Mac stores Korean and accented letters decomposed (NFD) where annotations hold them
composed (NFC), Windows writes backslashes and ignores case, and some tools put `./` in front. The folder is listed once; then a
name costs one look-up, and no file is touched.
"""

import logging
import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from ocr.datasets.file_states import state_of
from ocr.file_names import shown

log = logging.getLogger(__name__)

_NUM_SHOWN = 5
"""Largest number of folders that a warning lists."""


class FoundFile(NamedTuple):
    """The file that a name means."""

    name: str
    """Name on the disk, relative to the folder, with /."""
    differs_in: tuple[str, ...] = ()
    """Differences between the name on the disk and the one looked up: "slash", "Unicode form", "case"; empty: it does not."""


class AmbiguousName(LookupError):
    """A name fits several files. `candidates` has their names."""

    def __init__(self, name: str, candidates: Sequence[str]) -> None:
        self.candidates = tuple(candidates)
        super().__init__(f"{shown(name)} fits {' and '.join(escaped(candidate) for candidate in candidates)}")


class FolderListing:
    """The files of a folder and its sub-folders, and look-ups by name.

    Symbolic links to folders are followed. Each folder is read once, under its own path if that lies inside `folder`, and a link
    to a folder that it lies in is not followed. Links and folders that are left out are logged.

    Args:
        names: names of the files of interest, relative to the folder; then nothing is read. None: all files.
    """

    def __init__(self, folder: Path, names: Sequence[str] | None = None) -> None:
        self.folder = folder
        walk = _Walk(folder)
        self.names = sorted(walk.files() if names is None else names)
        """Names of all files, relative to the folder, with /, sorted."""
        self.folders: dict[str, list[int]] = walk.read
        """State of each folder before it was read: "" for `folder` itself, and `sub/`."""
        self._has_second_paths = bool(walk.repeated)
        _warn(folder, walk.repeated, "symbolic links to folders that are read already or lie around the link")
        _warn(folder, walk.unreadable, "folders that cannot be read")

    def images(self, extensions: Sequence[str]) -> list[str]:
        """Returns the names that end with one of the extensions, which are in lower case with their dot; none that is hidden.

        macOS puts a hidden `._NAME` beside each file on a disk of another kind, and into archives.
        """
        return [name for name in self.names if _extension(name) in extensions and "/." not in f"/{name}"]

    def __contains__(self, name: str) -> bool:
        """Returns whether a file has this name exactly."""
        return name in self._all

    def find(self, name: str) -> FoundFile | None:
        """Returns the file that a name means, or None if no file fits.

        The name as written comes first, then the same name with other slashes, then the same text in another Unicode form, then in
        another case.

        Raises:
            AmbiguousName: two files fit equally.
        """
        if name in self._all or (self._has_second_paths and os.path.lexists(self.folder / name)):
            return FoundFile(name)
        plain = _with_slashes(name)
        if plain in self._all:
            return FoundFile(plain, ("slash",))
        candidates = self._by_folded_name.get(_folded(name), [])
        same_case = [candidate for candidate in candidates if _composed(candidate) == _composed(name)]
        best = same_case or candidates
        if len(best) > 1:
            raise AmbiguousName(name, best)
        return FoundFile(best[0], _differences(name, best[0])) if best else None

    def with_stem(self, stem: str, extensions: Sequence[str]) -> list[str]:
        """Returns the names that are `stem` followed by one of the extensions.

        The stem as written comes first; without such a file, other slashes, Unicode forms and cases count as the same.

        Args:
            stem: name relative to the folder, without extension.
            extensions: extensions, lower case, with their dot.
        """
        names = [name for name in self._by_folded_stem.get(_folded(stem), []) if _extension(name) in extensions]
        for form in (str, _with_slashes, _composed):
            exact = [name for name in names if form(os.path.splitext(name)[0]) == form(stem)]
            if exact:
                return exact
        return names

    @cached_property
    def _all(self) -> frozenset[str]:
        return frozenset(self.names)

    @cached_property
    def _by_folded_name(self) -> dict[str, list[str]]:
        return _grouped(self.names, self.names)

    @cached_property
    def _by_folded_stem(self) -> dict[str, list[str]]:
        return _grouped([os.path.splitext(name)[0] for name in self.names], self.names)


def files_with(folder: Path, extension: str) -> list[Path]:
    """Returns the files in a folder that are not hidden and have an extension, in any case, sorted; none without the folder."""
    if not folder.is_dir():
        return []
    return sorted(file for file in folder.iterdir() if _extension(file.name) == extension and file.name[0] != ".")


def existing_path(path: str) -> str | None:
    """Returns the path itself if it exists, else the one path that differs from it in Unicode form or case only; None without one.

    Raises:
        AmbiguousName: two files or folders fit equally.
    """
    if os.path.lexists(path):
        return path
    folder, name = os.path.split(path)
    if not name or folder == path:
        return None
    existing = existing_path(folder) if folder else ""
    if existing is None or not os.path.isdir(existing or "."):
        return None
    found = FolderListing(Path(existing), os.listdir(existing or ".")).find(name)
    return None if found is None else os.path.join(existing, found.name)


def escaped(name: str) -> str:
    """Returns a name in which two names that look alike differ: other characters than ASCII are written as \\uNNNN."""
    return name.encode("ascii", "backslashreplace").decode()


def _grouped(keys: Sequence[str], names: Sequence[str]) -> dict[str, list[str]]:
    groups = defaultdict(list)
    for key, name in zip(keys, names, strict=True):
        groups[_folded(key)].append(name)
    return groups


def _extension(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _with_slashes(name: str) -> str:
    """Returns the name with / between its parts, and without `./` and `//`. An absolute path stays one."""
    plain = name.replace("\\", "/")
    return "/" * plain.startswith("/") + "/".join(part for part in plain.split("/") if part not in ("", "."))


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", _with_slashes(name))


def _folded(name: str) -> str:
    """Returns the same text for all names that differ in slashes, Unicode form or case only."""
    return unicodedata.normalize("NFC", _composed(name).casefold())


def _differences(written: str, on_disk: str) -> tuple[str, ...]:
    plain, plain_on_disk = _with_slashes(written), _with_slashes(on_disk)
    differences = {
        "slash": (plain, plain_on_disk) != (written, on_disk),
        "Unicode form": plain.casefold() != plain_on_disk.casefold(),
        "case": _composed(written) != _composed(on_disk),
    }
    return tuple(name for name, differs in differences.items() if differs)


class _Walk:
    """The folders below one, each read once: first those that are no links, then the links in the order of their names."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # A link to a folder around this one would bring in everything else there, this folder again included.
        self._seen = {_identity(around) for around in folder.resolve().parents}
        self._folders = [""]
        self._links: list[str] = []
        self.read: dict[str, list[int]] = {}
        self.repeated: list[str] = []
        """Links to a folder that has been read, or that they lie in."""
        self.unreadable: list[str] = []

    def files(self) -> Iterator[str]:
        """Yields the names of all files, relative to the folder."""
        while self._folders or self._links:
            if not self._folders:
                self._links.sort(reverse=True)
                self._folders.append(self._links.pop())
            prefix = self._folders.pop()
            try:
                yield from self._files_in(prefix)
            except OSError:
                if not prefix:
                    raise
                self.unreadable.append(prefix)

    def _files_in(self, prefix: str) -> Iterator[str]:
        identity = _identity(self._folder / prefix)
        if identity in self._seen:
            self.repeated.append(prefix)
            return
        self._seen.add(identity)
        self.read[prefix] = state_of(self._folder / prefix)
        with os.scandir(self._folder / prefix) as entries:
            for entry in entries:
                name = f"{prefix}{entry.name}"
                if not is_folder(entry):
                    yield name
                else:
                    (self._links if entry.is_symlink() else self._folders).append(f"{name}/")


def _identity(folder: Path) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Returns whether an entry is a folder or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself; whoever opens it reports it
        return False


def _warn(folder: Path, left_out: list[str], reason: str) -> None:
    if left_out:
        names = ", ".join(left_out[:_NUM_SHOWN]) + (", ..." if len(left_out) > _NUM_SHOWN else "")
        log.warning("%s: skipped %d %s: %s", folder, len(left_out), reason, names)
