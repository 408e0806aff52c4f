"""Reads and writes the native format: one JSON file per split.

    {"images": {"<file>": {"img_w": 463, "img_h": 1013,
                           "words": {"0001": {"points": [[x, y], ...], "illegibility": false}}}}}

`ignore` or `illegibility` true marks a don't-care region. Other keys are tolerated; `words` missing means no text.
"""

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ocr.datasets.formats.annotated import AnnotatedImage, AnnotatedWord, FormatProblem
from ocr.datasets.formats.image_folder import ImageFolder
from ocr.datasets.formats.interface import NO_FIT, AnnotationFormat, Confidence, Fit
from ocr.datasets.formats.look import Look
from ocr.datasets.formats.text import encoding_of
from ocr.datasets.manifest import Manifest
from ocr.datasets.orientation import stored_from_original
from ocr.errors import InputError
from ocr.polygons import PolygonBatch

IGNORE_KEYS = ("ignore", "illegibility")


def read_upstage(annotation_path: Path) -> list[AnnotatedImage]:
    """Returns the images that a JSON file lists, in its order; a file that is listed twice comes twice.

    Raises:
        FileNotFoundError: there is no such file.
        InputError: the file is not JSON, or not an object with an "images" object.
        OSError: the file cannot be read.
    """
    document = _load(annotation_path)
    images = document.get("images") if isinstance(document, _Object) else None
    if not isinstance(images, _Object):
        found = f"keys {_shown(list(document))}" if isinstance(document, _Object) else _shown(document)
        raise InputError(
            f"{annotation_path}: found {found if images is None else f'images = {_shown(images)}'}; "
            'expected {"images": {"<file>": {"words": {...}}}}'
        )
    if document.repeated:
        raise InputError(
            f"{annotation_path}: found the key {_shown(next(iter(document.repeated)))} twice; expected once; remove one"
        )
    return [_read_image(filename, entry, annotation_path.name) for filename, entry in images.members()]


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


def _read(path: Path, images: ImageFolder) -> Iterator[AnnotatedImage]:
    del images  # the file names its images
    yield from read_upstage(path)


UPSTAGE = AnnotationFormat("upstage", "Upstage JSON", "file", examine_upstage, _read)


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
        polygons = polygons.transformed(
            np.stack([_stored_from_original(manifest, index) for index in chosen]),
        )
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


def _stored_from_original(manifest: Manifest, index: int) -> np.ndarray:
    height, width = manifest.stored_sizes[index]
    return stored_from_original(int(manifest.orientations[index]), (int(height), int(width)))


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
        return AnnotatedImage(filename, source, problems=(FormatProblem(None, _shown(entry), "an object"),))
    problems = [FormatProblem(None, f"the key {_shown(key)} twice", "each key once") for key in entry.repeated]
    sizes = []
    for key in ("img_h", "img_w"):
        size = entry.get(key)
        if size is not None and not _is_number(size):
            problems.append(FormatProblem(None, f"{key} = {_shown(size)}", "a number of pixels"))
            size = None
        sizes.append(size)

    words: list[AnnotatedWord] = []
    listed = entry.get("words")
    if listed is not None and not isinstance(listed, _Object):
        problems.append(FormatProblem(None, f"words = {_shown(listed)}", "an object of words by key"))
    elif listed is not None:
        problems += [FormatProblem(key, "the word's key twice", "each key once") for key in listed.repeated]
        for key, value in listed.members():
            word = _read_word(key, value)
            if isinstance(word, FormatProblem):
                problems.append(word)
            elif key not in listed.repeated:
                words.append(word)
    return AnnotatedImage(filename, source, tuple(words), (sizes[0], sizes[1]), tuple(problems))


def _read_word(key: str, value: Any) -> AnnotatedWord | FormatProblem:
    if not isinstance(value, _Object):
        return FormatProblem(key, _shown(value), "an object with points")
    if value.repeated:
        return FormatProblem(key, f"the key {_shown(next(iter(value.repeated)))} twice", "each key once")
    for flag in IGNORE_KEYS:
        if not isinstance(value.get(flag), bool | None):
            return FormatProblem(key, f"{flag} = {_shown(value[flag])}", "true or false")
    points = value.get("points")
    if not isinstance(points, list) or not all(_is_point(point) for point in points):
        return FormatProblem(key, f"points = {_shown(points)}", "a list of [x, y] numbers")
    is_ignored = any(value.get(flag) is True for flag in IGNORE_KEYS)
    return AnnotatedWord(key, np.array(points, np.float64).reshape(-1, 2), is_ignored)


def _is_point(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and _is_number(value[0]) and _is_number(value[1])


def _is_number(value: Any) -> bool:
    # Excludes bool, which is an integer in Python, and integers too long for a float.
    return type(value) is float or (type(value) is int and abs(value) < 2**63)


def _shown(value: Any) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False)
    except RecursionError:
        return "a deeply nested value"
    return text if len(text) <= 60 else text[:57] + "..."
