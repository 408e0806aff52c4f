"""Reads text files whose encoding is not stated: UTF-8, or UTF-16 as Windows editors write it."""

import codecs
from pathlib import Path

_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def encoding_of(start: bytes) -> str:
    """Returns the encoding of a text that begins with these bytes: utf-8-sig, utf-16 (with a mark), utf-16-le or utf-16-be.

    Without a mark, a text whose first characters have a zero byte each is UTF-16: digits, brackets and Latin letters do.
    """
    if start.startswith(_UTF16_MARKS):
        return "utf-16"
    first = start[:4]
    if len(first) == 4 and first[0] and first[2] and not first[1] and not first[3]:
        return "utf-16-le"
    if len(first) == 4 and first[1] and first[3] and not first[0] and not first[2]:
        return "utf-16-be"
    return "utf-8-sig"


def decode_text(content: bytes) -> str:
    """Returns the text of a file. Bytes that are no characters become U+FFFD."""
    return content.decode(encoding_of(content), errors="replace")


def read_text(path: Path) -> str:
    """Returns the text of a file, its line ends as they are.

    Raises:
        OSError: the file cannot be read.
    """
    return decode_text(path.read_bytes())
