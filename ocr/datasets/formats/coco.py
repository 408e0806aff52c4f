"""Reads COCO instance segmentation: one JSON file of images, annotations and categories, linked by ids.

    {"images": [{"id": 1, "file_name": "a.jpg", "height": 480, "width": 640}],
     "annotations": [{"id": 7, "image_id": 1, "category_id": 1, "iscrowd": 0, "bbox": [x, y, width, height],
                      "segmentation": [[x1, y1, x2, y2, ...]]}],
     "categories": [{"id": 1, "name": "text"}]}

Each polygon of an annotation is a word; `iscrowd` 1 marks a don't-care region, and so does a category named `ignore`, `illegible`
or the like. All other categories are text. A flat `segmentation` (MMOCR 0.x) is read as one polygon. Masks (RLE), boxes without
polygons, keypoints, captions and panoptic files are refused by name.

Source: https://cocodataset.org/#format-data (file dataset/format-data.htm of its repository); flat polygons: MMOCR 0.x,
`mmocr/utils/data_converter_utils.py`.
"""

import logging
from array import array
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ocr.datasets.formats.annotated import AnnotatedImage
from ocr.datasets.formats.dont_care import is_ignore_label
from ocr.datasets.formats.image_folder import ImageFolder
from ocr.datasets.formats.interface import NO_FIT, AnnotationFormat, Confidence, Fit
from ocr.datasets.formats.json_text import JsonText
from ocr.datasets.formats.json_values import (
    NO_SIZE,
    Malformed,
    Points,
    Size,
    as_flag,
    as_id,
    as_name,
    as_object,
    brief,
    flat_polygon,
    size_of,
)
from ocr.datasets.formats.linked_words import LinkedWords
from ocr.datasets.formats.look import Look
from ocr.errors import InputError
from ocr.file_names import shown

log = logging.getLogger(__name__)

_OTHER_KINDS = {
    "box": "boxes only; copy each bbox into segmentation as four corners, or export polygons",
    "mask": "RLE masks; export polygons, or convert the masks to polygons",
    "keypoints": "keypoints only; export an instance segmentation",
    "caption": "captions; export an instance segmentation",
    "panoptic": "a panoptic segmentation, whose regions are in PNG files; export an instance segmentation",
    "nothing": "annotations without a segmentation; export polygons",
}
"""Kinds of annotation without polygons, each with advice."""


def read_coco(path: Path, images: ImageFolder) -> Iterator[AnnotatedImage]:
    """Yields the listed images in their order; one without annotations is an image without text.

    Raises:
        FileNotFoundError: there is no such file.
        InputError: the file is not COCO, none of its annotations has a polygon, or an id points nowhere.
        OSError: the file cannot be read.
    """
    parts = _Parts(path)
    with JsonText(path) as text:
        for key in text.members():
            if key == "images":
                for index in text.elements():
                    parts.add_image(index, text.value())
            elif key == "annotations":
                for index in text.elements():
                    parts.add_annotation(index, text.value())
            elif key == "categories":
                parts.add_categories(text.value())
            else:
                text.skip()
            parts.seen[key] += 1
        text.end()
    parts.check()
    yield from parts.linked(images)


class _Parts:
    """Images, annotations and categories of one file while it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seen: Counter[str] = Counter()
        """Number of times that the file holds each top-level key."""
        self._images: dict[str, tuple[str, Size]] = {}
        """File name and size (H, W) by id."""
        self._categories: dict[str, str] = {}
        self._words = LinkedWords()
        self._words_of_category: dict[str, array[int]] = {}
        self._other_kinds: Counter[str] = Counter()

    def add_image(self, index: int, value: Any) -> None:
        place = f"images[{index}]"
        try:
            entry = as_object(value, place)
            image_id = as_id(entry.get("id"), "id")
        except Malformed as error:
            raise self._error(place, error) from error
        if image_id in self._images:
            raise self._error(place, Malformed(f"the id {brief(image_id)} a second time", "each id once"))
        name, size = f"images[{index}]", NO_SIZE
        try:
            name = as_name(entry.get("file_name"), "file_name")
            size = size_of(entry, "height", "width")
        except Malformed as error:
            self._words.add_problem(image_id, error.problem())
        self._images[image_id] = (name, size)

    def add_annotation(self, index: int, value: Any) -> None:
        place = f"annotations[{index}]"
        try:
            entry = as_object(value, place)
            image_id = as_id(entry.get("image_id"), "image_id")
        except Malformed as error:
            raise self._error(place, error) from error
        key = str(entry["id"]) if type(entry.get("id")) in (int, str) else place
        try:
            polygons = self._polygons(entry)
            is_ignored = as_flag(entry, "iscrowd")
            category = "" if entry.get("category_id") is None else as_id(entry["category_id"], "category_id")
        except Malformed as error:
            self._words.add_problem(image_id, error.problem(key))
            return
        for number, polygon in enumerate(polygons, 1):
            self._words_of_category.setdefault(category, array("q")).append(len(self._words))
            self._words.add(image_id, key if len(polygons) == 1 else f"{key}.{number}", polygon, is_ignored)

    def add_categories(self, value: Any) -> None:
        try:
            for entry in value if isinstance(value, list) else [value]:
                category = as_object(entry, "a category")
                self._categories[as_id(category.get("id"), "id")] = str(category.get("name"))
        except Malformed as error:
            raise self._error("categories", error) from error

    def check(self) -> None:
        """Raises InputError unless the parts fit together and hold polygons."""
        for key in ("images", "annotations"):
            if self.seen[key] != 1:
                found = f'the key "{key}" {self.seen[key]} times' if self.seen[key] else f"keys {brief([*self.seen])}"
                raise InputError(
                    f'{self.path}: found {found}; expected COCO: "images" and "annotations" once each. '
                    "The file of a test set without annotations cannot be trained on or scored"
                )
        if self._other_kinds and not len(self._words):
            kind, count = self._other_kinds.most_common(1)[0]
            raise InputError(
                f"{self.path}: none of the annotations has a polygon; {count:,} of them hold {_OTHER_KINDS[kind]}"
            )
        strangers = self._words.images_not_in(self._images)
        if strangers:
            raise InputError(
                f'{self.path}: found annotations with image_id {brief(strangers[0])}, which "images" does not list '
                f"({len(strangers):,} such ids); expected an image for each annotation; add the images or remove the "
                "annotations"
            )
        unknown = [category for category in self._words_of_category if category and category not in self._categories]
        if self._categories and unknown:
            raise InputError(
                f'{self.path}: found annotations with category_id {brief(unknown[0])}, which "categories" does not list; '
                f"expected one of {brief([*self._categories])}; add the category"
            )

    def linked(self, images: ImageFolder) -> Iterator[AnnotatedImage]:
        """Yields the images with their words."""
        self._apply_categories()
        for image_id, (name, size) in self._images.items():
            yield self._words.image(image_id, images.locate(name), self.path.name, size)

    def _apply_categories(self) -> None:
        read = []
        for category, words in self._words_of_category.items():
            name = shown(self._categories.get(category, category))
            is_ignored = is_ignore_label(name)
            if is_ignored:
                self._words.set_ignored(words)
            mark = ", don't-care" if is_ignored else ""
            read.append(f"{name} ({len(words):,}{mark})")
        if len(read) > 1:
            log.info("%s: every category is read as text: %s", self.path, ", ".join(read))

    def _polygons(self, entry: dict[str, Any]) -> list[Points]:
        segmentation = entry.get("segmentation")
        if isinstance(segmentation, list) and segmentation:
            if not isinstance(segmentation[0], list):
                return [flat_polygon(segmentation, "segmentation")]
            return [flat_polygon(part, "segmentation") for part in segmentation]
        kind = _other_kind(entry)
        self._other_kinds[kind] += 1
        found = "segmentation as an RLE mask" if kind == "mask" else f"segmentation = {brief(segmentation)}"
        raise Malformed(f"{found} ({kind})" if kind != "mask" else found, "a list of polygons [x1, y1, x2, y2, ...]")

    def _error(self, place: str, error: Malformed) -> InputError:
        return InputError(f"{self.path}: {place}: found {error.found}; expected {error.expected}")


def _other_kind(entry: dict[str, Any]) -> str:
    """Returns what an annotation without polygons holds: a key of `_OTHER_KINDS`."""
    if isinstance(entry.get("segmentation"), dict):
        return "mask"
    for key, kind in (
        ("caption", "caption"),
        ("segments_info", "panoptic"),
        ("keypoints", "keypoints"),
        ("bbox", "box"),
    ):
        if key in entry:
            return kind
    return "nothing"


def examine_coco(look: Look) -> Fit:
    """Judges a file by its top-level keys: a list `images` or `annotations` is COCO's mark."""
    document = look.json
    if not isinstance(document, dict):
        return NO_FIT
    images, annotations = document.get("images"), document.get("annotations")
    if isinstance(images, list) and isinstance(annotations, list):
        return Fit(Confidence.CERTAIN, 'lists "images" and "annotations"')
    first = images[0] if isinstance(images, list) and images else None
    if isinstance(first, dict) and "file_name" in first:
        return Fit(Confidence.CERTAIN, 'a list "images" with file_name')
    first = annotations[0] if isinstance(annotations, list) and annotations else None
    if isinstance(first, dict) and "image_id" in first:
        return Fit(Confidence.CERTAIN, 'a list "annotations" with image_id')
    return NO_FIT


COCO = AnnotationFormat("coco", "COCO segmentation", "file", examine_coco, read_coco)
