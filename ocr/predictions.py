"""Detections as predictions.json and as pictures."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from ocr.atomic_write import atomic_file, explained_write
from ocr.datasets.image_checks import IMAGE_EXTENSIONS
from ocr.datasets.manifest import Manifest
from ocr.datasets.orientation import original_from_stored
from ocr.file_names import path_inside, with_ending
from ocr.polygons import FloatArray
from ocr.postprocess.boxes import Detections, moved_detections

FOUND_COLOUR, TRUTH_COLOUR, IGNORED_COLOUR = (0, 160, 60), (30, 90, 255), (150, 150, 150)


def write_predictions(path: Path, manifest: Manifest, detections_original: Mapping[int, Detections]) -> None:
    """Writes {"images": {file: {"words": {"0001": {"points", "confidence"}}}}} in pixels of the files as they are stored.

    Args:
        detections_original: by position in the manifest, in pixels of the upright image.
    """
    entries = (
        (manifest.filenames[index], entry_of(manifest, index, detections))
        for index, detections in sorted(detections_original.items())
    )
    write_entries(path, entries)


def write_entries(path: Path, entries: Iterable[tuple[str, dict[str, Any]]]) -> None:
    """Writes predictions.json completely or not at all, from one image's entry after the other.

    The content is that of `json.dumps({"images": ...}, indent=1)`, whose own text and objects would need a gigabyte for ten
    thousand images.

    Args:
        entries: file name and entry of each image, as from `image_entry`.

    Raises:
        StorageError: the file cannot be written; an older file of that name is unchanged.
    """
    with explained_write(path), atomic_file(path, durable=True) as file:
        file.write(b'{\n "images": {')
        is_empty = True
        for name, entry in entries:
            file.write(f"{'' if is_empty else ','}\n  {json.dumps(name)}: {_entry_text(entry)}".encode())
            is_empty = False
        file.write(b"}\n}" if is_empty else b"\n }\n}")


def _entry_text(entry: Mapping[str, Any]) -> str:
    """Returns an entry as it stands in predictions.json.

    `json.dumps` with an indent runs in Python for every number and takes several times as long.
    """
    words = []
    for number, word in entry["words"].items():
        points = ",".join(f"\n      [\n       {x!r},\n       {y!r}\n      ]" for x, y in word["points"])
        words.append(
            f'\n    "{number}": {{\n     "points": [{points}\n     ],\n     "confidence": {word["confidence"]!r}\n    }}'
        )
    return f'{{\n   "words": {{{",".join(words)}\n   }}\n  }}' if words else '{\n   "words": {}\n  }'


def entry_of(manifest: Manifest, index: int, detections_original: Detections) -> dict[str, Any]:
    """Returns the entry of one of a manifest's images in predictions.json, from detections in pixels of the upright image."""
    image = manifest.stored_image(index)
    return image_entry(stored_detections(detections_original, image.orientation, image.size))


def stored_detections(detections_original: Detections, orientation: int, stored_size: tuple[int, int]) -> Detections:
    """Returns the detections in pixels of the file as it is stored.

    Args:
        detections_original: in pixels of the upright image.
        orientation: EXIF orientation, 1 to 8.
        stored_size: (H, W) of the stored file.
    """
    upright = original_from_stored(orientation, stored_size)
    return moved_detections(detections_original, np.linalg.inv(upright), stored_size)


def image_entry(detections_stored: Detections) -> dict[str, dict[str, dict[str, Any]]]:
    """Returns an image's entry in predictions.json. Points are rounded to 2 decimals, confidences to 4."""
    points = np.round(detections_stored.vertices.astype(float), 2).tolist()
    starts, scores = detections_stored.vertex_starts.tolist(), detections_stored.scores.tolist()
    words = {
        f"{number:04d}": {"points": points[start:end], "confidence": round(score, 4)}
        for number, ((start, end), score) in enumerate(zip(pairwise(starts), scores, strict=True), start=1)
    }
    return {"words": words}


def draw_picture(
    pixels: np.ndarray,
    detections: Detections,
    truth: list[FloatArray] | None = None,
    ignore: np.ndarray | None = None,
    longest_side: int | None = None,
) -> Image.Image:
    """Returns the upright image with detections in green, drawn over annotations in blue and don't-care regions in grey.

    Args:
        longest_side: largest width or height of the picture, in pixels; None: the size of the image.
    """
    picture = Image.fromarray(pixels).convert("RGB")
    original_size = picture.size
    if longest_side is not None:
        picture.thumbnail((longest_side, longest_side))
    scale = np.divide(picture.size, original_size)
    canvas = ImageDraw.Draw(picture)
    width = max(2, round(max(picture.size) / 500))
    for polygon, colour in _outlines(detections, truth or [], ignore):
        corners = polygon * scale
        # On a large page, lines as thick as the page suggests would hide small text.
        thickness = min(width, max(2, round(np.ptp(corners, axis=0).min() / 8)))
        canvas.polygon([tuple(point) for point in corners], outline=colour, width=thickness)
    return picture


def save_picture(picture: Image.Image, directory: Path, filename: str, extensions: Sequence[str] = ()) -> Path:
    """Saves the picture as a JPEG under the image's name and returns its path. Each image has a picture of its own.

    Names in other formats get .jpg appended: a.png becomes a.png.jpg, and an image a.png.jpg therefore a.png.jpg.jpg.

    Args:
        extensions: extensions of the data set's images, lower case, with their dot.

    Raises:
        InputError: the name leads out of the directory.
    """
    is_jpeg = filename.lower().endswith((".jpg", ".jpeg"))
    before = re.sub(r"(\.jpg)+$", "", filename.lower())  # the picture of an image of this name may have the name
    others = [extension for extension in (*IMAGE_EXTENSIONS, *extensions) if extension not in (".jpg", ".jpeg")]
    is_taken = before != filename.lower() and before.endswith(tuple(others))
    target = path_inside(directory, filename if is_jpeg and not is_taken else with_ending(filename, ".jpg"))
    target.parent.mkdir(parents=True, exist_ok=True)
    picture.save(target, quality=90)
    return target


def _outlines(
    detections: Detections, truth: list[FloatArray], ignore: np.ndarray | None
) -> Iterator[tuple[FloatArray, tuple[int, int, int]]]:
    for number, polygon in enumerate(truth):
        yield polygon, IGNORED_COLOUR if ignore is not None and ignore[number] else TRUTH_COLOUR
    for polygon in detections.polygons:
        yield polygon, FOUND_COLOUR
