"""Writes annotations for other trainers: PaddleOCR, MMOCR 1.x, docTR and COCO. Their readers are in the modules of these names.

Coordinates are the shortest decimals that read back as the same float32. A don't-care region keeps the mark of the format:

    paddleocr   "transcription": "###", "difficult": true
    mmocr       "ignore": true
    doctr       the class `ignore`; docTR has no mark, and trains it as a class
    coco        "iscrowd": 1

Texts are not among a data set's checked annotations, so PaddleOCR's transcription of every other word is `text`. docTR takes four
corners: a polygon with more or fewer is written as its smallest rectangle.

Sources: the same as those of the readers.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ocr.atomic_write import atomic_file
from ocr.datasets.formats.upstage import shortest_decimals
from ocr.datasets.manifest import Manifest
from ocr.datasets.orientation import stored_from_original
from ocr.file_names import json_in_utf8
from ocr.polygons import FloatArray

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WrittenImage:
    """One image and its polygons, in the frame of the file that lies in the written data set."""

    name: str
    """Relative to the folder of images."""
    size: tuple[int, int]
    """(H, W)."""
    polygons: Sequence[FloatArray]
    """(n, 2) each."""
    ignore: Sequence[bool]
    """Don't-care flags of the polygons."""


@dataclass(frozen=True)
class WrittenImages:
    """Images of a manifest as they are written, made one at a time. They can be iterated again and again."""

    manifest: Manifest
    indices: Sequence[int]
    """Positions in the manifest."""
    canonical: bool
    """Coordinates and sizes of the upright images; otherwise of the files as stored."""

    def __iter__(self) -> Iterator[WrittenImage]:
        for index in self.indices:
            polygons, stored = self.manifest.polygons.select([index]), self.manifest.stored_image(index)
            height, width = (int(side) for side in self.manifest.original_sizes[index])
            if not self.canonical:
                height, width = stored.size
                polygons = polygons.transformed(stored_from_original(stored.orientation, stored.size)[None])
            ignore = polygons.ignore_of(0).tolist()
            yield WrittenImage(self.manifest.filenames[index], (height, width), polygons.polygons_of(0), ignore)


Writer = Callable[[Iterable[WrittenImage], Path, Path], Iterator[str]]
"""Returns the pieces of an annotation file. Further arguments: folder of the images, and root folder of the data set."""


def write_annotations(path: Path, images: Iterable[WrittenImage], writer: Writer, image_dir: Path, root: Path) -> None:
    """Writes an annotation file completely or not at all, one image after the other.

    Raises:
        OSError: the file cannot be written.
    """
    with atomic_file(path) as file:
        for piece in writer(images, image_dir, root):
            file.write(json_in_utf8(piece))


def paddleocr_pieces(images: Iterable[WrittenImage], image_dir: Path, root: Path) -> Iterator[str]:
    """Yields PaddleOCR's label file: a line per image, with its path relative to the root folder.

    The path is plain text, so that every name must be UTF-8.
    """
    for image in images:
        words = [
            {"transcription": "###" if ignore else "text", "points": _points(polygon), "difficult": ignore}
            for polygon, ignore in zip(image.polygons, image.ignore, strict=True)
        ]
        yield f"{_below(root, image_dir, image.name)}\t{_json(words)}\n"


def mmocr_pieces(images: Iterable[WrittenImage], image_dir: Path, root: Path) -> Iterator[str]:
    """Yields MMOCR's JSON of text detection, with image paths relative to the root folder."""
    metainfo = {"dataset_type": "TextDetDataset", "task_name": "textdet", "category": [{"id": 0, "name": "text"}]}
    entries = (
        {
            "img_path": _below(root, image_dir, image.name),
            "height": image.size[0],
            "width": image.size[1],
            "instances": [
                {"polygon": _flat(polygon), "bbox": _corners(polygon), "bbox_label": 0, "ignore": ignore}
                for polygon, ignore in zip(image.polygons, image.ignore, strict=True)
            ],
        }
        for image in images
    )
    yield f'{{"metainfo": {_json(metainfo)}, "data_list": ['
    yield from _list_items(entries)
    yield "]}\n"


def doctr_pieces(images: Iterable[WrittenImage], image_dir: Path, root: Path) -> Iterator[str]:
    """Yields docTR's labels.json. Only images with don't-care regions have classes."""
    num_replaced = 0
    yield "{"
    for number, image in enumerate(images):
        num_replaced += sum(len(polygon) != 4 for polygon in image.polygons)
        corners = [four_corners(polygon) for polygon in image.polygons]
        polygons: Any = [_points(polygon) for polygon in corners]
        if any(image.ignore):
            polygons = {
                name: [polygon for polygon, ignore in zip(polygons, image.ignore, strict=True) if ignore == is_ignored]
                for name, is_ignored in (("words", False), ("ignore", True))
            }
        digest = hashlib.sha256((image_dir / image.name).read_bytes()).hexdigest()
        entry = {"img_dimensions": list(image.size), "img_hash": digest, "polygons": polygons}
        yield f"{',' if number else ''}\n{_json(image.name)}: {_json(entry)}"
    yield "}\n"
    if num_replaced:
        log.warning(
            "%s: %d polygons have not four corners, as docTR needs; their smallest rectangles were written",
            image_dir,
            num_replaced,
        )


def coco_pieces(images: Iterable[WrittenImage], image_dir: Path, root: Path) -> Iterator[str]:
    """Yields COCO's JSON of an instance segmentation with the category `text`. Iterates the images twice."""
    yield '{"categories": [{"id": 1, "name": "text", "supercategory": "text"}], "images": ['
    yield from _list_items(
        {"id": number, "file_name": image.name, "height": image.size[0], "width": image.size[1]}
        for number, image in enumerate(images, 1)
    )
    yield '], "annotations": ['
    yield from _list_items(_coco_annotations(images))
    yield "]}\n"


def _coco_annotations(images: Iterable[WrittenImage]) -> Iterator[dict[str, Any]]:
    number = 0
    for image_id, image in enumerate(images, 1):
        for polygon, ignore in zip(image.polygons, image.ignore, strict=True):
            number += 1
            left, top, right, bottom = _corners(polygon)
            yield {
                "id": number,
                "image_id": image_id,
                "category_id": 1,
                "segmentation": [_flat(polygon)],
                "area": round(float(cv2.contourArea(polygon)), 3),
                "bbox": [left, top, right - left, bottom - top],
                "iscrowd": int(ignore),
            }


def four_corners(polygon: FloatArray) -> FloatArray:
    """Returns the polygon if it has four points, otherwise the (4, 2) corners of its smallest rectangle."""
    return polygon if len(polygon) == 4 else cv2.boxPoints(cv2.minAreaRect(polygon)).astype(np.float32)


def _list_items(entries: Iterable[dict[str, Any]]) -> Iterator[str]:
    for place, entry in enumerate(entries):
        yield f"{',' if place else ''}\n{_json(entry)}"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _points(polygon: FloatArray) -> list[list[float]]:
    return [shortest_decimals(point) for point in polygon]


def _flat(polygon: FloatArray) -> list[float]:
    return shortest_decimals(polygon.ravel())


def _corners(polygon: FloatArray) -> list[float]:
    """Returns left, top, right and bottom."""
    return shortest_decimals(np.concatenate([polygon.min(axis=0), polygon.max(axis=0)]))


def _below(root: Path, image_dir: Path, name: str) -> str:
    """Returns the path of an image relative to the root folder, with /."""
    return (image_dir / name).relative_to(root).as_posix()


@dataclass(frozen=True)
class Layout:
    """Where a trainer expects the files of a split. `{split}` stands for train, val or test."""

    images: str
    annotations: str
    writer: Writer


LAYOUTS = {
    "paddleocr": Layout("{split}", "{split}_label.txt", paddleocr_pieces),
    "mmocr": Layout("textdet_imgs/{split}", "textdet_{split}.json", mmocr_pieces),
    "doctr": Layout("{split}/images", "{split}/labels.json", doctr_pieces),
    "coco": Layout("{split}2017", "annotations/instances_{split}2017.json", coco_pieces),
}
"""Layout of each format, which `data=` of the same name reads."""
