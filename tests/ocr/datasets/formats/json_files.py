"""Helpers for tests of readers of one JSON file."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ocr.datasets.formats.annotated import AnnotatedImage
from ocr.datasets.formats.image_folder import ImageFolder

Reader = Callable[[Path, ImageFolder], Iterator[AnnotatedImage]]


def read_document(read: Reader, folder: Path, document: Any, **options: Any) -> list[AnnotatedImage]:
    """Returns what a reader makes of a document, or of a text that is written as it is; images lie in the same folder."""
    path = folder / "annotations.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document), encoding="utf-8")
    return list(read(path, ImageFolder(folder, (".jpg", ".jpeg", ".png"), **options)))


def problems(images: list[AnnotatedImage]) -> list[tuple[str | None, str]]:
    """Returns (word, found) of each problem."""
    return [(problem.word, problem.found) for image in images for problem in image.problems]


def points(image: AnnotatedImage) -> list[list[list[float]]]:
    return [word.points.tolist() for word in image.words]
