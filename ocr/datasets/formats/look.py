"""A look at an annotation path: enough to recognise its format, without reading all of it."""

import json
import os
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ocr.datasets.formats.text import decode_text

HEAD_BYTES = 2**16
"""Number of bytes read at the beginning of a file."""
MAX_NAMES = 2000
"""Number of names read of a folder."""
MAX_LINES = 1000
"""Number of lines of a file that are looked at."""


@dataclass(frozen=True)
class Look:
    """The beginning of the annotations at a path: names and first bytes."""

    path: Path
    is_folder: bool
    names: tuple[str, ...] = ()
    """Names of a folder's first files, at most `MAX_NAMES`, sorted; without hidden files and sub-folders."""
    head: str = ""
    """Beginning of a file as text, at most `HEAD_BYTES` bytes, without a byte-order mark."""
    is_whole: bool = True
    """Whether `head` is the whole file, or `names` all files of the folder."""

    @cached_property
    def json(self) -> Any:
        """The JSON value of a file; of a longer file, what its beginning shows, with all brackets closed. None: not JSON."""
        return parse_beginning(self.head)

    @cached_property
    def first_lines(self) -> list[str]:
        """The first lines of `head` that are not blank and that it holds whole, at most `MAX_LINES`."""
        lines = self.head.split("\n")
        return [line for line in (lines if self.is_whole else lines[:-1]) if line.strip()][:MAX_LINES]

    def files(self, suffix: str, count: int = 5) -> list["Look"]:
        """Returns a look at some files of a folder, spread over its names. Their suffix may be in upper or lower case."""
        names = self.names_with(suffix)
        step = max(len(names) // count, 1)
        return [look_at(self.path / name) for name in names[::step][:count]]

    def names_with(self, suffix: str) -> list[str]:
        """Returns the names of a folder's files that end in a suffix, in upper or lower case."""
        return [name for name in self.names if name.lower().endswith(suffix)]


def look_at(path: Path) -> Look:
    """Returns a look at a file or folder.

    Raises:
        FileNotFoundError: there is neither at this path.
        OSError: it cannot be read.
    """
    if path.is_dir():
        names = []
        with os.scandir(path) as entries:
            for entry in entries:
                # Not a link that leads nowhere, nor one to itself, which the entry's own check for files raises an error for.
                is_file = entry.is_file(follow_symlinks=False) or (entry.is_symlink() and os.path.isfile(entry.path))
                if is_file and not entry.name.startswith("."):
                    names.append(entry.name)
                    if len(names) > MAX_NAMES:
                        break
        return Look(path, True, names=tuple(sorted(names[:MAX_NAMES])), is_whole=len(names) <= MAX_NAMES)
    if not path.is_file():
        missing = [folder for folder in path.parents if not folder.exists()]
        since = f", since {missing[-1]} does not exist" if missing else ""
        raise FileNotFoundError(f"{path}: there is no such annotation file or folder{since}")
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES + 1)
    return Look(path, False, head=decode_text(head[:HEAD_BYTES]), is_whole=len(head) <= HEAD_BYTES)


# Strings are matched whole, so that brackets and commas inside them do not count. The last alternative is a string cut short.
_JSON_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{},]|"', re.DOTALL)


_DEEPEST = 100
"""Deepest nesting of brackets; no format needs more than ten levels. It bounds the time that hostile files take."""


def parse_beginning(text: str) -> Any:
    """Returns the JSON value of a text that may be cut short: members that are not whole are left out. None: not JSON."""
    if not text.lstrip().startswith(("{", "[")):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    closers: list[str] = []
    end, closing = 0, ""
    for token in _JSON_TOKEN.finditer(text):
        mark = token.group()
        if mark in "{[":
            if len(closers) == _DEEPEST:
                return None
            closers.append("}" if mark == "{" else "]")
            end, closing = token.end(), "".join(reversed(closers))
        elif mark in "}]":
            if not closers or closers.pop() != mark:
                return None
            end, closing = token.end(), "".join(reversed(closers))
        elif mark == ",":
            end, closing = token.start(), "".join(reversed(closers))
        elif mark == '"':
            break
    try:
        return json.loads(text[:end] + closing)
    except (ValueError, RecursionError):
        return None
