"""Reads XML of unknown origin piece by piece: no entity is expanded, nothing outside the file is opened.

Expat would expand entities that a file declares ("billion laughs": a few hundred bytes become gigabytes), and could be made to open
other files. The formats here need no document type, so a declaration of an entity is refused when expat meets it.
"""

import contextlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import BinaryIO
from xml.etree.ElementTree import Element
from xml.parsers import expat

from ocr.datasets.formats.annotated import FormatProblem

_CHUNK_BYTES = 1 << 16
_MAX_DEPTH = 200
"""Largest number of elements inside each other. A page of a book needs about ten."""


class XmlProblem(ValueError):
    """A file is no well-formed XML, or declares an entity; the message says where."""


def root_of_beginning(text: str) -> str | None:
    """Returns the name of the outermost element of a file that begins with this text; None if it does not begin as XML."""
    builder = _Builder(())
    with contextlib.suppress(XmlProblem):  # the text may be cut short, also in the middle of a name
        _parse(_parser(builder, "utf-8"), text.encode("utf-8", "replace"), is_last=False)
    return builder.root


def root_name(path: Path) -> str:
    """Returns the name of a file's outermost element. Reads no more of the file than that needs.

    Raises:
        XmlProblem: the file does not begin as XML.
        OSError: the file cannot be read.
    """
    builder = _Builder(())
    with path.open("rb") as file:
        for _ in _parsed(file, builder):
            if builder.root is not None:
                return builder.root
    raise XmlProblem("no element found")


def elements(path: Path, wanted: Collection[str]) -> Iterator[Element]:
    """Yields the elements of these names in the order in which they end, each with all its content. Names are without namespace.

    An element inside a wanted one is part of that one only. Nothing else of the file is kept.

    Raises:
        XmlProblem: the file is not well-formed, or it declares an entity.
        OSError: the file cannot be read.
    """
    builder = _Builder(wanted)
    with path.open("rb") as file:
        for _ in _parsed(file, builder):
            yield from builder.take()


def child_text(element: Element, name: str) -> str:
    """Returns the text of the first child of this name, without blanks at its ends; empty without such a child."""
    child = element.find(name)
    return "" if child is None else "".join(child.itertext()).strip()


def stated_size(
    element: Element, height: str, width: str
) -> tuple[tuple[float | None, float | None], list[FormatProblem]]:
    """Returns the size (H, W) that two attributes of an element state, None where one is missing or no number, and the problems."""
    size: list[float | None] = []
    problems = []
    for name in (height, width):
        stated = element.get(name)
        try:
            size.append(None if stated is None else float(stated))
        except ValueError:
            size.append(None)
            problems.append(FormatProblem(None, f"{name} = {stated!r}", "a number of pixels"))
    return (size[0], size[1]), problems


class _Builder:
    """Receives expat's calls and keeps the wanted elements."""

    def __init__(self, wanted: Collection[str]) -> None:
        self.root: str | None = None
        self._wanted = wanted
        self._depth = 0
        self._open: list[Element] = []
        self._text: list[str] = []
        """Pieces of text since the last start or end of an element."""
        self._finished: list[Element] = []

    def start(self, full_name: str, attributes: dict[str, str]) -> None:
        name = full_name.rpartition(" ")[2]
        self.root = self.root or name
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise XmlProblem(f"more than {_MAX_DEPTH} elements inside each other")
        self._end_text()
        if self._open or name in self._wanted:
            element = Element(name, {key.rpartition(" ")[2]: value for key, value in attributes.items()})
            if self._open:
                self._open[-1].append(element)
            self._open.append(element)

    def end(self, _: str) -> None:
        self._depth -= 1
        self._end_text()
        if self._open:
            element = self._open.pop()
            if not self._open:
                self._finished.append(element)

    def text(self, text: str) -> None:
        if self._open:
            self._text.append(text)

    def _end_text(self) -> None:
        """Gives the text since the last tag to the element that it belongs to."""
        if self._text:
            element, text = self._open[-1], "".join(self._text)
            if len(element):
                element[-1].tail = text
            else:
                element.text = text
            self._text = []

    def take(self) -> list[Element]:
        """Returns the elements that have ended since the last call."""
        finished, self._finished = self._finished, []
        return finished


def _parsed(file: BinaryIO, builder: _Builder) -> Iterator[None]:
    """Gives the file to the builder, one chunk at a step."""
    parser, is_last = _parser(builder), False
    while not is_last:
        chunk = file.read(_CHUNK_BYTES)
        is_last = not chunk
        _parse(parser, chunk, is_last)
        yield


def _parser(builder: _Builder, encoding: str | None = None) -> expat.XMLParserType:
    parser = expat.ParserCreate(encoding, namespace_separator=" ")
    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler = builder.start, builder.end
    parser.CharacterDataHandler = builder.text
    parser.EntityDeclHandler = _refuse_entity
    return parser


def _parse(parser: expat.XMLParserType, chunk: bytes, is_last: bool) -> None:
    try:
        parser.Parse(chunk, is_last)
    except expat.ExpatError as error:
        raise XmlProblem(f"line {error.lineno}: {expat.ErrorString(error.code)}") from error
    except (ValueError, LookupError) as error:  # an XmlProblem of a handler, or an encoding that expat does not know
        raise XmlProblem(f"line {parser.CurrentLineNumber}: {error}") from error


def _refuse_entity(name: str, *_: object) -> None:
    raise XmlProblem(
        f"a declaration of the entity {name!r}; entities are refused, since they can fill the memory or name other files"
    )
