"""Reads a JSON file value by value, so that a file of any length never becomes one tree of Python objects."""

import json
from collections.abc import Iterator
from json import JSONDecodeError
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from ocr.datasets.formats.text import encoding_of
from ocr.errors import InputError
from ocr.file_names import shown

CHUNK = 2**20
"""Number of characters read at once."""
_LONGEST_LITERAL = 16
"""An error this close to the end of what was read may come from a literal that continues, such as `-Infinity`."""
_BLANKS = " \t\n\r"


class BrokenJson(InputError):
    """A file is not JSON."""

    def __init__(self, path: Path, found: str) -> None:
        super().__init__(f"{path}: not JSON: {found}; expected a whole JSON file in UTF-8; write or copy it again")
        self.found = found


class JsonText:
    """A JSON file that is read from front to back. At each point, the caller enters, reads or skips the next value.

        with JsonText(path) as text:
            for key in text.members():
                if key == "images":
                    for _ in text.elements():
                        use(text.value())
                else:
                    text.skip()

    In memory: one chunk of the file, or the longest value that is read whole.

    Every method that reads raises BrokenJson where the file is not JSON: cut, nested too deep, in another encoding.
    """

    def __init__(self, path: Path) -> None:
        """Opens a file in UTF-8 or UTF-16.

        Raises:
            FileNotFoundError: there is no such file.
            OSError: it cannot be read.
        """
        if not path.is_file():
            raise FileNotFoundError(f"{path}: there is no such annotation file")
        self.path = path
        with path.open("rb") as file:
            encoding = encoding_of(file.read(4))
        # newline="": positions in errors count the characters of the file.
        self._file: TextIO = path.open(encoding=encoding, newline="")
        self._decoder = json.JSONDecoder()
        self._text = ""
        self._at = 0
        self._dropped = 0
        self._is_at_end = False

    def __enter__(self) -> "JsonText":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def next_mark(self) -> str:
        """Returns the character that the next value begins with: `{`, `[`, `"`, a digit, ... Empty at the end of the file."""
        while True:
            while self._at < len(self._text):
                if self._text[self._at] not in _BLANKS:
                    return self._text[self._at]
                self._at += 1
            if not self._read_on():
                return ""

    def value(self) -> Any:
        """Reads the next value whole."""
        self.next_mark()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except JSONDecodeError as error:
                may_continue = error.pos > len(self._text) - _LONGEST_LITERAL or error.msg.startswith("Unterminated")
                if may_continue and self._read_on():
                    continue
                raise self._error(error.msg, error.pos) from error
            except ValueError as error:  # an integer of thousands of digits
                raise self._error(str(error), self._at) from error
            except RecursionError as error:
                raise self._error("brackets nested too deep to read", self._at) from error
            # A number at the end of what was read may go on: `-0` with `.5`, `1` with `e-3`.
            if type(value) in (int, float) and end > len(self._text) - 3 and self._read_on():
                continue
            self._at = end
            return value

    def skip(self) -> None:
        """Passes over the next value, which may be of any length: a list or object is passed part by part, a string is not kept."""
        mark = self.next_mark()
        if mark == '"':
            self._at += 1
            self._pass_string()
        elif mark in ("[", "{"):
            for _ in self.elements() if mark == "[" else self.members():
                self.value()
        else:
            self.value()

    def members(self) -> Iterator[str]:
        """Enters the next value, an object. Yields each key; the caller reads, enters or skips its value before going on."""
        self._expect("{")
        if self.next_mark() == "}":
            self._at += 1
            return
        while True:
            if self.next_mark() != '"':
                raise self._error("a key in double quotes is missing", self._at)
            key = self.value()
            self._expect(":")
            yield key
            if self._passes_last("}"):
                return

    def elements(self) -> Iterator[int]:
        """Enters the next value, a list. Yields each index; the caller reads, enters or skips the element before going on."""
        self._expect("[")
        if self.next_mark() == "]":
            self._at += 1
            return
        index = 0
        while True:
            yield index
            index += 1
            if self._passes_last("]"):
                return

    def end(self) -> None:
        """Checks that nothing follows the last value."""
        if self.next_mark():
            raise self._error("text after the end of the JSON value", self._at)

    def _pass_string(self) -> None:
        """Passes the rest of a string, whose opening quote is passed."""
        while True:
            quote = self._text.find('"', self._at)
            backslash = self._text.find("\\", self._at, quote if quote >= 0 else len(self._text))
            if 0 <= backslash < len(self._text) - 1:
                self._at = backslash + 2
            elif quote >= 0 and backslash < 0:
                self._at = quote + 1
                return
            else:
                self._at = backslash if backslash >= 0 else len(self._text)
                if not self._read_on():
                    raise self._error("a string without an end", self._at)

    def _passes_last(self, closer: str) -> bool:
        """Passes a comma or the closing bracket; returns whether it was the bracket."""
        mark = self.next_mark()
        if mark not in (",", closer):
            raise self._error(f"`,` or `{closer}` is missing", self._at)
        self._at += 1
        return mark == closer

    def _expect(self, mark: str) -> None:
        if self.next_mark() != mark:
            raise self._error(f"`{mark}` is missing", self._at)
        self._at += 1

    def _read_on(self) -> bool:
        """Reads more of the file; what was passed is dropped. Returns False at its end."""
        if self._is_at_end:
            return False
        rest = self._text[self._at :]
        try:
            # As much as is kept, at least: a value over many chunks is then tried a few times only.
            more = self._file.read(max(CHUNK, len(rest)))
        except UnicodeError as error:
            raise BrokenJson(self.path, str(error)) from error
        if not more:
            self._is_at_end = True
            return False
        self._dropped += self._at
        self._text, self._at = rest + more, 0
        return True

    def _error(self, found: str, position: int) -> BrokenJson:
        start = max(position - 20, 0)
        near = self._text[start : position + 20]
        where = f"at character {self._dropped + position:,}, near {shown(repr(near))}" if near else "in an empty file"
        return BrokenJson(self.path, f"{found} {where}")
