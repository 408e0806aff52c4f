"""Finds the images that a command names: one file, several, a folder, a pattern with wildcards, or a text file that lists them."""

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ocr.datasets.folder_listing import AmbiguousName, FolderListing, existing_path
from ocr.errors import InputError
from ocr.file_names import shown

LIST_EXTENSIONS = (".txt", ".lst", ".list")
"""Extensions of text files that list images, one path a line."""


class ImageList(NamedTuple):
    """Images below a common folder."""

    folder: Path
    """Absolute."""
    names: list[str]
    """Names relative to the folder, with /, each once, in the order in which they were given."""


def find_images(given: Sequence[str], extensions: Sequence[str]) -> ImageList:
    """Returns the images that `given` names.

    Args:
        given: one or more of: an image file; a folder, whose sub-folders count too; a pattern with *, ?, [] or **; a text file
            ending in .txt, .lst or .list that holds one path of an image or folder a line, relative to its own folder or else to
            the working directory. A path that exists, perhaps in another Unicode form or case, is never taken as a pattern.
        extensions: extensions of the files that count as images in a folder or behind a pattern, lower case, with their dot. A
            file that is named itself may have any.

    Raises:
        InputError: an entry names nothing, or a folder, pattern or list holds no image.
    """
    paths = [path for entry in given for path in _images_of(entry, extensions)]
    folder = os.path.commonpath({os.path.dirname(path) for path in paths})
    names = dict.fromkeys(os.path.relpath(path, folder).replace(os.sep, "/") for path in paths)
    return ImageList(Path(folder), list(names))


def existing_entry(entry: str) -> str:
    """Returns the path that an element of `images` names, as it is on the disk, or its pattern. Reads no image.

    Raises:
        InputError: there is no such file or folder, or the name fits several.
    """
    path = _existing(entry)
    if path is not None and os.path.exists(path):
        return path
    if glob.has_magic(entry):
        return entry
    raise InputError(
        f"{shown(entry)}: found no such file or folder; expected an image, a folder, a pattern such as 'scans/*.jpg', or a "
        "text file of paths; check the path"
    )


def _existing(path: str) -> str | None:
    try:
        return existing_path(path)
    except AmbiguousName as error:
        raise InputError(f"{error}; write the name of the file that is meant exactly as on the disk") from error


def _images_of(entry: str, extensions: Sequence[str]) -> list[str]:
    """Returns absolute paths, at least one."""
    entry = existing_entry(entry)
    if os.path.isdir(entry):
        found = _images_in(entry, extensions)
    elif os.path.isfile(entry):
        found = _listed_in(Path(entry), extensions) if entry.lower().endswith(LIST_EXTENSIONS) else [entry]
    else:
        found = list(_matching(entry, extensions))
    if not found:
        raise InputError(f"{shown(entry)}: found no image; expected files ending in {', '.join(extensions)}")
    return [os.path.abspath(path) for path in found]


def _images_in(folder: str, extensions: Sequence[str]) -> list[str]:
    return [os.path.join(folder, name) for name in FolderListing(Path(folder)).images(extensions)]


def _matching(pattern: str, extensions: Sequence[str]) -> Iterator[str]:
    for path in sorted(glob.iglob(pattern, recursive=True)):
        if os.path.isdir(path):
            if not pattern.endswith("**"):  # whose files match too
                yield from _images_in(path, extensions)
        elif path.lower().endswith(tuple(extensions)):
            yield path


def _listed_in(path: Path, extensions: Sequence[str]) -> list[str]:
    """Returns the images in a text file of paths: UTF-8, with or without a byte order mark, with line ends of any system."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: found bytes that are not UTF-8: {error}; expected one path a line") from error
    found = []
    for line in filter(None, map(str.strip, text.split("\n"))):
        listed = _beside(path.parent, line)
        found += _images_in(listed, extensions) if os.path.isdir(listed) else [listed]
    return found


def _beside(folder: Path, line: str) -> str:
    beside = os.path.join(folder, line)
    return _existing(beside) or _existing(line) or beside
