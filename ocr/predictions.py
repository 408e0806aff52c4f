"""Detections as predictions.json and as pictures."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from ocr.atomic_write import write_durably
from ocr.datasets.image_checks import IMAGE_EXTENSIONS
from ocr.datasets.manifest import Manifest
from ocr.datasets.orientation import original_from_stored
from ocr.file_names import path_inside
from ocr.polygons import FloatArray
from ocr.postprocess.boxes import Detections, moved_detections

FOUND_COLOUR, TRUTH_COLOUR, IGNORED_COLOUR = (0, 160, 60), (30, 90, 255), (150, 150, 150)


def write_predictions(path: Path, manifest: Manifest, detections_original: Mapping[int, Detections]) -> None:
    """Writes {"images": {file: {"words": {"0001": {"points", "confidence"}}}}} in pixels of the files as they are stored.

    Args:
        detections_original: by position in the manifest, in pixels of the upright image.
    """
    images = {}
    for index, detections in sorted(detections_original.items()):
        image = manifest.stored_image(index)
        stored = stored_detections(detections, image.orientation, image.size)
        images[manifest.filenames[index]] = image_entry(stored)
    write_durably(path, json.dumps({"images": images}, indent=1).encode())


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
    words = {
        f"{number:04d}": {
            "points": np.round(polygon.astype(float), 2).tolist(),
            "confidence": round(float(score), 4),
        }
        for number, (polygon, score) in enumerate(
            zip(detections_stored.polygons, detections_stored.scores, strict=True), start=1
        )
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
        canvas.polygon([tuple(point) for point in polygon * scale], outline=colour, width=width)
    return picture


def save_picture(picture: Image.Image, directory: Path, filename: str, extensions: Sequence[str] = ()) -> None:
    """Saves the picture as a JPEG under the image's name. Each image has a picture of its own.

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
    target = path_inside(directory, filename if is_jpeg and not is_taken else f"{filename}.jpg")
    target.parent.mkdir(parents=True, exist_ok=True)
    picture.save(target, quality=90)


def _outlines(
    detections: Detections, truth: list[FloatArray], ignore: np.ndarray | None
) -> Iterator[tuple[FloatArray, tuple[int, int, int]]]:
    for number, polygon in enumerate(truth):
        yield polygon, IGNORED_COLOUR if ignore is not None and ignore[number] else TRUTH_COLOUR
    for polygon in detections.polygons:
        yield polygon, FOUND_COLOUR
