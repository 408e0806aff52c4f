"""One small data set, in Upstage form: each format writes the same words in its own way, and must be read as the same polygons."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ocr.datasets.formats.annotated import AnnotatedImage
from ocr.datasets.formats.image_folder import ImageFolder
from ocr.datasets.formats.read import read_annotations

EXTENSIONS = (".jpg", ".png")
SIZE = (240, 320)
"""(H, W) of all images."""

Word = tuple[list[list[float]], str]
"""Points, and the text; ### marks a don't-care region."""

QUADS: dict[str, list[Word]] = {
    "img_1.jpg": [
        ([[20, 10], [120, 12], [119, 34], [19, 32]], "SHOP"),
        ([[20, 50], [120, 50], [120, 74], [20, 74]], "###"),
        ([[150.5, 90], [300, 95], [299, 120.25], [149, 114]], "1,234.00"),
    ],
    "img_2.jpg": [([[40, 40], [160, 40], [160, 70], [40, 70]], "상점")],
    "img_3.jpg": [],
}
RECTANGLES: dict[str, list[Word]] = {
    "img_1.jpg": [
        ([[20, 10], [120, 10], [120, 34], [20, 34]], "SHOP"),
        ([[200, 50], [280, 50], [280, 74], [200, 74]], "###"),
    ],
    "img_2.jpg": [([[40, 140], [160, 140], [160, 170], [40, 170]], "two words")],
}
_ARC = np.linspace(np.pi, 2 * np.pi, 7)
CURVES: dict[str, list[Word]] = {
    "img_1.jpg": [
        (
            np.concatenate(
                [
                    np.stack([100 + 60 * np.cos(_ARC), 100 + 60 * np.sin(_ARC)], 1).round(),
                    np.stack([100 + 40 * np.cos(_ARC[::-1]), 100 + 40 * np.sin(_ARC[::-1])], 1).round(),
                ]
            ).tolist(),
            "curved",
        ),
        (
            [[float(x), 150.0] for x in range(20, 160, 20)] + [[float(x), 180.0] for x in range(140, 0, -20)],
            "###",
        ),
    ],
    "img_2.jpg": [
        ([[float(x), 30.0] for x in range(0, 70, 10)] + [[float(x), 45.0] for x in range(60, -10, -10)], "line")
    ],
}


def write_images(folder: Path, names: Sequence[str] = tuple(QUADS), orientation: int | None = None) -> ImageFolder:
    """Writes blank images, and returns their folder."""
    folder.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    for name in names:
        Image.new("L", SIZE[::-1]).save(folder / name, exif=exif)
    return ImageFolder(folder, EXTENSIONS)


def flat(points: Sequence[Sequence[float]], separator: str = ",") -> str:
    return separator.join(f"{value:g}" for point in points for value in point)


def read(path: Path, images: ImageFolder, annotation_format: str = "auto") -> list[AnnotatedImage]:
    return list(read_annotations(path, images, annotation_format))


def assert_same(found: Sequence[AnnotatedImage], words: dict[str, list[Word]], tmp_path: Path, atol: float = 0) -> None:
    """Compares what a reader returned with the same words in Upstage form, polygon by polygon."""
    document = {
        "images": {
            name: {
                "words": {
                    f"{number:04d}": {"points": points, "ignore": text == "###"}
                    for number, (points, text) in enumerate(listed, 1)
                }
            }
            for name, listed in words.items()
        }
    }
    (tmp_path / "expected.json").write_text(json.dumps(document))
    expected = read(tmp_path / "expected.json", ImageFolder(tmp_path, EXTENSIONS), "upstage")
    assert [image.problems for image in found] == [()] * len(expected)
    assert [image.filename for image in found] == [image.filename for image in expected]
    for image, other in zip(found, expected, strict=True):
        assert [word.ignore for word in image.words] == [word.ignore for word in other.words]
        for word, same in zip(image.words, other.words, strict=True):
            np.testing.assert_allclose(word.points, same.points, rtol=0, atol=atol)
