"""Reads and writes the native format: one JSON file per split.

    {"images": {"<file>": {"img_w": 463, "img_h": 1013,
                           "words": {"0001": {"points": [[x, y], ...], "illegibility": false}}}}}

`ignore` or `illegibility` true marks a don't-care region. Other keys are tolerated; `words` missing means no text.
"""

import codecs
import json
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, overload

import numpy as np
import numpy.typing as npt

from ocr.datasets.formats import json_scanner
from ocr.datasets.formats.annotated import (
    CHUNK_IMAGES,
    AnnotatedChunk,
    AnnotatedImage,
    AnnotatedWord,
    FormatProblem,
    chunks_of,
)
from ocr.datasets.formats.image_folder import ImageFolder
from ocr.datasets.formats.interface import NO_FIT, AnnotationFormat, Confidence, Fit
from ocr.datasets.formats.json_values import brief
from ocr.datasets.formats.look import Look
from ocr.datasets.formats.text import encoding_of
from ocr.datasets.manifest import Manifest
from ocr.datasets.orientation import stored_from_original
from ocr.errors import InputError
from ocr.polygons import PolygonBatch

IGNORE_KEYS = ("ignore", "illegibility")

_WINDOW_BYTES = 4 << 20
"""Part of the file that is read at once."""


def read_upstage(annotation_path: Path, _: ImageFolder | None = None) -> "UpstageAnnotations":
    """Returns the images that a JSON file lists by name, in its order; a file that is listed twice comes twice.

    Raises:
        FileNotFoundError: there is no such file.
        InputError: the beginning or the end of the file is not that of this format.
        OSError: the file cannot be read.
    """
    return UpstageAnnotations(annotation_path)


class UpstageAnnotations:
    """The images of an Upstage file. It is read in windows while they are taken, and never whole.

    Taking them raises InputError where the file turns out to be no JSON, or not of this format.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise FileNotFoundError(f"{path}: there is no such annotation file")
        self._path = path
        with path.open("rb") as file:
            try:
                _Window(file).find_images()
                if not _ends_with_a_brace(file):  # a file cut short, before hours are spent on its images
                    raise _UnusualError
            except _UnusualError:
                _read_whole(path)

    def __iter__(self) -> Iterator[AnnotatedImage]:
        for chunk in self.chunks():
            for index in range(len(chunk)):
                yield chunk.image(index)

    def chunks(self) -> Iterator[AnnotatedChunk]:
        """Yields the images as arrays."""
        num_images = 0
        try:
            with self._path.open("rb") as file:
                window = _Window(file)
                window.find_images()
                while not window.has_ended:
                    chunk = _next_chunk(window, self._path.name)
                    num_images += len(chunk)
                    yield chunk
                window.check_rest()
        except _UnusualError:
            # Python's parser raises the exact error, or reads what the scanner did not understand.
            yield from chunks_of(_read_whole(self._path)[num_images:])


class _UnusualError(Exception):
    """The scanner met something that only Python's parser can read or name."""


class _Window:
    """The part of a JSON file that is in memory, and the place that is read next."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._num_bytes = max(1, os.fstat(file.fileno()).st_size)
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._keys: set[str] = set()
        self.content = b""
        self.text = np.frombuffer(self.content, np.uint8)
        """The content as an array."""
        self.position = 0
        self.has_ended = False
        """Whether `position` is behind the object "images"."""
        self._is_last = False
        self.extend()

    def extend(self) -> None:
        """Drops the bytes before `position`, and reads at least as many as remain.

        Raises:
            _UnusualError: the file has ended, or is not UTF-8.
        """
        if self._is_last:
            raise _UnusualError
        kept = self.content[self.position :]
        more = self._file.read(max(_WINDOW_BYTES, len(kept)))
        self._is_last = not more
        try:
            self._decoder.decode(more, final=self._is_last)
        except UnicodeDecodeError as error:
            raise _UnusualError from error
        self.content, self.position = kept + more, 0
        self.text = np.frombuffer(self.content, np.uint8)

    @property
    def share_read(self) -> float:
        """Share of the file before `position`, 0 to 1."""
        return min(1.0, (self._file.tell() - len(self.content) + self.position) / self._num_bytes)

    def find_images(self) -> None:
        """Moves from the beginning of the file to the first member of "images"."""
        if self.content.startswith(codecs.BOM_UTF8):
            self.position = len(codecs.BOM_UTF8)
        self.position = json_scanner.blanks_end(self.text, self.position)
        if not self.content.startswith(b"{", self.position):
            raise _UnusualError
        self.position += 1
        while not self._enter_images():
            if self._pass_member():
                raise _UnusualError

    def check_rest(self) -> None:
        """Reads from the end of "images" to the end of the file."""
        while (after := json_scanner.member_end(self.text, self.position))[0] < 0:
            self.extend()
        self.position, is_last = after
        while not is_last:
            is_last = self._pass_member()
        while not self._is_last:
            if self.content[self.position :].strip(b" \t\r\n"):
                raise _UnusualError
            self.position = len(self.content)
            self.extend()

    def _enter_images(self) -> bool:
        """Moves into the object "images" if it is the next member."""
        while True:
            key, value = self._key()
            if value < len(self.content):
                break
            self.extend()
        if key != "images" or key in self._keys or self.content[value : value + 1] != b"{":
            return False
        self._keys.add(key)
        self.position = value + 1
        first = json_scanner.blanks_end(self.text, self.position)
        if self.content[first : first + 1] == b"}":
            self.position, self.has_ended = first + 1, True
        return True

    def _pass_member(self) -> bool:
        """Moves behind the next member of the document. Returns whether it is the last."""
        while True:
            key, value = self._key()
            end = json_scanner.value_end(self.text, value)
            after, is_last = json_scanner.member_end(self.text, end) if end >= 0 else (-1, False)
            if after >= 0:
                break
            self.extend()
        if key in self._keys:
            raise _UnusualError
        self._keys.add(key)
        self.position = after
        return is_last

    def _key(self) -> tuple[str, int]:
        """Returns the key at `position`, and the place of its value."""
        while True:
            first = json_scanner.blanks_end(self.text, self.position)
            end, value = json_scanner.key_end(self.text, first)
            if value >= 0:
                return _string(self.content[first + 1 : end - 1]), value
            self.extend()


def _ends_with_a_brace(file: BinaryIO) -> bool:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 4096))
    return file.read().rstrip(b" \t\r\n").endswith(b"}")


def _string(content: bytes) -> str:
    """Returns a JSON string given without its quotes."""
    return json.loads(b'"' + content + b'"') if b"\\" in content else content.decode()


class _Keys(Sequence[str]):
    """Keys of words, made when they are looked up."""

    def __init__(self, content: bytes, spans: npt.NDArray[np.int64], unusual: dict[int, str]) -> None:
        self._content = content
        self._spans = spans
        self._unusual = unusual
        """Keys that are not in `content`, by word."""

    def __len__(self) -> int:
        return len(self._spans)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[word] for word in range(*index.indices(len(self)))]
        key = self._unusual.get(index)
        if key is None:
            first, end = self._spans[index]
            key = self._content[first:end].decode()
        return key


def _next_chunk(window: _Window, source: str) -> AnnotatedChunk:
    """Returns the images that are whole in the window, at least one unless the object ends. Moves behind them."""
    columns = json_scanner.columns_for(len(window.content), CHUNK_IMAGES)
    unusual: dict[int, AnnotatedImage] = {}
    unusual_keys: dict[int, str] = {}
    while True:
        how, window.position = json_scanner.scan_images(window.text, window.position, columns)
        if how == json_scanner.ENDED:
            window.has_ended = True
            break
        if how == json_scanner.FULL:
            break
        end = json_scanner.find_member_end(window.text, window.position)
        if end >= 0:
            image = _parsed_image(window.content[window.position : end], source)
            index, first_word = (int(count) for count in columns.counts[:2])
            unusual[index] = image
            unusual_keys.update(enumerate((word.key for word in image.words), first_word))
            json_scanner.append_image(columns, image)
            window.position, window.has_ended = json_scanner.member_end(window.text, end)
            if window.has_ended:
                break
        elif columns.counts[0]:
            break
        else:
            window.extend()
            columns = json_scanner.columns_for(len(window.content), CHUNK_IMAGES)
    num_images, num_words, num_points = (int(count) for count in columns.counts)
    names = [_string(window.content[first:end]) for first, end in columns.names[:num_images].tolist()]
    for index, image in unusual.items():
        names[index] = image.filename
    return AnnotatedChunk(
        filenames=names,
        sources=[source] * num_images,
        points=columns.points[:num_points],
        point_starts=columns.point_starts[: num_words + 1],
        word_starts=columns.word_starts[: num_images + 1],
        ignore=columns.ignore[:num_words],
        keys=_Keys(window.content, columns.keys[:num_words], unusual_keys),
        declared_sizes=columns.declared_sizes[:num_images],
        is_declared=columns.is_declared[:num_images],
        problems={index: image.problems for index, image in unusual.items() if image.problems},
        share_read=window.share_read,
    )


def _parsed_image(member: bytes, source: str) -> AnnotatedImage:
    """Returns one image, from the bytes of its key and value."""
    try:
        document = json.loads(b"{" + member + b"}", object_pairs_hook=_object_of)
    except (ValueError, RecursionError) as error:
        raise _UnusualError from error
    members = list(document.members())
    if len(members) != 1:  # a comma without a member
        raise _UnusualError
    ((filename, entry),) = members
    return _read_image(filename, entry, source)


def _read_whole(path: Path) -> list[AnnotatedImage]:
    """Returns the images as Python's own parser reads them: slow, and the whole file in memory, but with the exact error."""
    document = _load(path)
    images = document.get("images") if isinstance(document, _Object) else None
    if not isinstance(images, _Object):
        found = f"keys {brief(list(document))}" if isinstance(document, _Object) else brief(document)
        raise InputError(
            f"{path}: found {found if images is None else f'images = {brief(images)}'}; "
            'expected {"images": {"<file>": {"words": {...}}}}'
        )
    if document.repeated:
        raise InputError(
            f"{path}: found the key {brief(next(iter(document.repeated)))} twice; expected once; remove one"
        )
    return [_read_image(filename, entry, path.name) for filename, entry in images.members()]


def examine_upstage(look: Look) -> Fit:
    """Judges by an object "images" whose members have "words"."""
    images = look.json.get("images") if isinstance(look.json, dict) else None
    if not isinstance(images, dict):
        # "images" may stand behind a long member.
        is_open = isinstance(look.json, dict) and images is None and not look.is_whole
        return Fit(Confidence.POSSIBLE, "a long JSON object") if is_open else NO_FIT
    entries = [entry for entry in images.values() if isinstance(entry, dict)]
    if any("words" in entry for entry in entries):
        return Fit(Confidence.CERTAIN, 'an object "images" by file name, with "words"')
    return Fit(Confidence.LIKELY, 'an object "images" by file name')


UPSTAGE = AnnotationFormat("upstage", "Upstage JSON", "file", examine_upstage, read_upstage)


def upstage_document(manifest: Manifest, indices: Sequence[int] | np.ndarray, *, canonical: bool) -> dict[str, Any]:
    """Returns the Upstage document of images of a manifest. Its coordinates read back as the same float32.

    Args:
        manifest: checked annotations.
        indices: positions in the manifest.
        canonical: coordinates and sizes of the upright images; otherwise of the files as stored.
    """
    chosen = [int(index) for index in indices]
    polygons = manifest.polygons.select(chosen)
    sizes = manifest.original_sizes
    if not canonical and chosen:
        sizes = manifest.stored_sizes
        stored = map(manifest.stored_image, chosen)
        polygons = polygons.transformed(np.stack([stored_from_original(one.orientation, one.size) for one in stored]))
    return {
        "images": {
            manifest.filenames[index]: {
                "img_w": int(sizes[index][1]),
                "img_h": int(sizes[index][0]),
                "words": _words_of(polygons, place),
            }
            for place, index in enumerate(chosen)
        }
    }


def shortest_decimals(values: np.ndarray) -> list[float]:
    """Returns (N,) float32 as the shortest decimal numbers that read back as the same float32."""
    return [float(str(value)) for value in values]


def _words_of(polygons: PolygonBatch, image: int) -> dict[str, Any]:
    return {
        f"{number:04d}": {
            "points": [shortest_decimals(point) for point in polygon],
            "illegibility": bool(ignore),
        }
        for number, (polygon, ignore) in enumerate(
            zip(polygons.polygons_of(image), polygons.ignore_of(image), strict=True), start=1
        )
    }


class _Object(dict[str, Any]):
    """A JSON object that remembers members whose key is repeated."""

    pairs: Sequence[tuple[str, Any]] = ()
    """All members in order; empty unless a key is repeated, to save memory."""
    repeated: Collection[str] = ()
    """The repeated keys, each once, in order."""

    def members(self) -> Iterable[tuple[str, Any]]:
        return self.pairs or self.items()


def _load(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such annotation file")
    expected = "expected a whole JSON file in UTF-8; write or copy it again"
    try:
        content = path.read_bytes()
        return json.loads(content.decode(encoding_of(content)), object_pairs_hook=_object_of)
    except ValueError as error:  # JSONDecodeError, UnicodeDecodeError, and integers of thousands of digits
        raise InputError(f"{path}: not a JSON file in UTF-8: {error}; {expected}") from error
    except RecursionError as error:
        raise InputError(f"{path}: found brackets nested too deep to read; {expected}") from error


def _object_of(pairs: list[tuple[str, Any]]) -> _Object:
    result = _Object(pairs)
    if len(result) < len(pairs):
        result.pairs = pairs
        counts = Counter(key for key, _ in pairs)
        result.repeated = {key: None for key, count in counts.items() if count > 1}.keys()
    return result


def _read_image(filename: str, entry: Any, source: str) -> AnnotatedImage:
    if not isinstance(entry, _Object):
        return AnnotatedImage(filename, source, problems=(FormatProblem(None, brief(entry), "an object"),))
    parts: list[AnnotatedWord | FormatProblem] = []
    parts += [FormatProblem(None, f"the key {brief(key)} twice", "each key once") for key in entry.repeated]
    sizes = []
    for key in ("img_h", "img_w"):
        size = entry.get(key)
        if size is not None and not _is_number(size):
            parts.append(FormatProblem(None, f"{key} = {brief(size)}", "a number of pixels"))
            size = None
        sizes.append(size)

    listed = entry.get("words")
    if listed is not None and not isinstance(listed, _Object):
        parts.append(FormatProblem(None, f"words = {brief(listed)}", "an object of words by key"))
    elif listed is not None:
        parts += [FormatProblem(key, "the word's key twice", "each key once") for key in listed.repeated]
        words = (_read_word(key, value) for key, value in listed.members())
        parts += [word for word in words if isinstance(word, FormatProblem) or word.key not in listed.repeated]
    return AnnotatedImage.of(filename, source, parts, (sizes[0], sizes[1]))


def _read_word(key: str, value: Any) -> AnnotatedWord | FormatProblem:
    if not isinstance(value, _Object):
        return FormatProblem(key, brief(value), "an object with points")
    if value.repeated:
        return FormatProblem(key, f"the key {brief(next(iter(value.repeated)))} twice", "each key once")
    for flag in IGNORE_KEYS:
        if not isinstance(value.get(flag), bool | None):
            return FormatProblem(key, f"{flag} = {brief(value[flag])}", "true or false")
    points = value.get("points")
    if not isinstance(points, list) or not all(_is_point(point) for point in points):
        return FormatProblem(key, f"points = {brief(points)}", "a list of [x, y] numbers")
    is_ignored = any(value.get(flag) is True for flag in IGNORE_KEYS)
    return AnnotatedWord(key, np.array(points, np.float64).reshape(-1, 2), is_ignored)


def _is_point(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and _is_number(value[0]) and _is_number(value[1])


def _is_number(value: Any) -> bool:
    # Excludes bool, which is an integer in Python, and integers too long for a float.
    return type(value) is float or (type(value) is int and abs(value) < 2**63)
