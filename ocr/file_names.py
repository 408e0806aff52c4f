"""The rule for file names that come from data: annotations, shard indices, folders of images. A stranger may have written them."""

import hashlib
import os
import posixpath
import unicodedata
from pathlib import Path

from ocr.errors import InputError

_MAX_PART_BYTES = 255
"""Longest name between two slashes, on all common file systems."""
_MAX_BYTES = 4095
"""Longest path that Linux opens."""
_CUT_BYTES = 200
"""Bytes that are left of a name that is too long with its ending."""
_ESCAPED = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode categories that a terminal obeys or cannot show: control, format (writing direction), lone surrogate, line separator."""


def name_problem(name: str) -> tuple[str, str] | None:
    """Returns (found, expected) if a name breaks the rule, otherwise None.

    A name is a path relative to its folder, with /, that stays inside it. It is normalised: no `./`, `../` or `//`. It has no
    control character, and a file system can store it.
    """
    if not name.isprintable():
        for character in name:
            if unicodedata.category(character) == "Cc":
                return f"the control character {shown(character)}", "a file name without control characters"
    try:
        num_bytes = len(os.fsencode(name))
    except UnicodeEncodeError as error:
        return f"the character {shown(name[error.start])}", "characters that a file name can have"
    longest = max(len(os.fsencode(part)) for part in name.split("/"))
    if longest > _MAX_PART_BYTES or num_bytes > _MAX_BYTES:
        limits = f"at most {_MAX_PART_BYTES} between two slashes and {_MAX_BYTES} in all"
        return f"a file name of {num_bytes} bytes", limits
    normalised = posixpath.normpath(name)
    if name.startswith("/"):
        return "an absolute path", "a path relative to its folder"
    if normalised == ".." or normalised.startswith("../"):
        return "a path that leads out of its folder", "a path inside it"
    if normalised == ".":
        return "no file name", "the name of a file"
    if normalised != name:
        return "a path that is not normalised", shown(normalised)
    return None


def path_inside(folder: Path, name: str) -> Path:
    """Returns the path of a file to write. Whoever writes to a name that comes from data takes the path from here.

    Raises:
        InputError: the name breaks the rule, or a symbolic link leads out of the folder.
    """
    problem = name_problem(name)
    if problem is not None:
        raise InputError(f"{folder}: refused to write {shown(name)}: found {problem[0]}; expected {problem[1]}")
    path = folder / name
    target = os.path.realpath(path)
    if not Path(target).is_relative_to(os.path.realpath(folder)):
        raise InputError(
            f"{path}: refused to write through a symbolic link to {shown(target)}, outside {folder}; remove the link"
        )
    return path


def with_ending(name: str, ending: str) -> str:
    """Returns the name with an ending appended. Where it gets too long for a file system, the name is cut and ends in a hash."""
    folder, slash, last = name.rpartition("/")
    encoded = os.fsencode(last)
    if len(encoded) + len(ending) > _MAX_PART_BYTES:
        last = f"{encoded[:_CUT_BYTES].decode(errors='ignore')}~{hashlib.sha256(encoded).hexdigest()[:16]}"
    return f"{folder}{slash}{last}{ending}"


def json_in_utf8(text: str) -> bytes:
    """Returns JSON text in UTF-8, whatever names it holds.

    A byte of a file name that is not UTF-8 is half of a surrogate pair in Python. It becomes \\udcNN, which JSON reads as the same.
    """
    return text.encode(errors="backslashreplace")


def shown(text: str) -> str:
    """Returns the text for a log or a terminal, with control characters as \\xNN or \\uNNNN."""
    if text.isprintable():
        return text
    return "".join(_escape(char) if unicodedata.category(char) in _ESCAPED else char for char in text)


def shown_lines(text: str) -> str:
    """Returns a text of several lines for a log or a terminal: `shown`, but for its line breaks."""
    return text if text.isprintable() else "\n".join(map(shown, text.split("\n")))


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
