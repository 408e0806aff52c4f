"""Small images with annotations, and their audit. Shared by the tests of this folder."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ocr.datasets.audit import build_manifest
from ocr.datasets.audit_report import AuditReport, Finding
from ocr.datasets.formats.annotated import AnnotatedImage, AnnotatedWord
from ocr.datasets.manifest import Manifest

EXTENSIONS = (".jpg", ".jpeg", ".png")
SQUARE = [(2, 2), (12, 2), (12, 9), (2, 9)]


def encoded(
    width: int = 40, height: int = 30, image_format: str = "JPEG", orientation: int = 1, **options: Any
) -> bytes:
    """A small picture with some structure."""
    ys, xs = np.mgrid[:height, :width]
    levels = np.stack([xs * 5 % 256, ys * 7 % 256, (xs * ys) % 256], axis=-1).astype(np.uint8)
    exif = Image.Exif()
    if orientation != 1:
        exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(levels).save(buffer, image_format, exif=exif, **options)
    return buffer.getvalue()


def annotated(filename: str, *polygons: Any, size: tuple[int | None, int | None] = (None, None)) -> AnnotatedImage:
    words = (AnnotatedWord(f"{i:04d}", np.array(points, np.float64)) for i, points in enumerate(polygons, 1))
    return AnnotatedImage(filename, "train.json", tuple(words), size)


def checked(folder: Path, images: list[AnnotatedImage] | None, **options: Any) -> tuple[Manifest, AuditReport]:
    return build_manifest(folder, images, extensions=EXTENSIONS, **options)


def only_finding(folder: Path, *images: AnnotatedImage, **options: Any) -> Finding:
    """Returns the one finding on these images, which leaves at least the good image usable."""
    (folder / "good.jpg").write_bytes(encoded())
    _, report = checked(folder, [*images, annotated("good.jpg")], on_bad_sample="skip", **options)
    (finding,) = report.findings
    return finding
