"""Reads COCO-Text (1.x, 2.0) and TextOCR: one JSON file of images and words as objects by id.

    {"imgs": {"<image id>": {"id": ..., "file_name": "train/a.jpg", "width": 640, "height": 480, "set": "train"}},
     "anns": {"<word id>": {"id": ..., "image_id": ..., "bbox": [x, y, width, height], "utf8_string": "text", ...}},
     "imgToAnns": {"<image id>": ["<word id>", ...]}}

The outline of a word is `points` (TextOCR), `mask` (COCO-Text 2) or `polygon` (COCO-Text 1.4), a flat list x1, y1, x2, y2, ...;
COCO-Text 1.0 has only `bbox`. Don't-care: the `legibility` `illegible` (COCO-Text), or the text `.` (TextOCR, for words
that are illegible or not English). One COCO-Text file lists the images of all sets: `annotation_set` chooses one.

Sources: https://github.com/andreasveit/coco-text (coco_text.py) and https://bgshih.github.io/cocotext; TextOCR's dataset page,
https://textvqa.org/textocr/dataset, also as https://huggingface.co/datasets/yunusserhat/TextOCR-Dataset; field names of
each version: MMOCR, `dataset_zoo/{cocotextv2,textocr}/sample_anno.md`.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ocr.datasets.formats.annotated import AnnotatedImage
from ocr.datasets.formats.image_folder import ImageFolder
from ocr.datasets.formats.interface import NO_FIT, AnnotationFormat, Confidence, Fit
from ocr.datasets.formats.json_text import JsonText
from ocr.datasets.formats.json_values import (
    NO_SIZE,
    Malformed,
    Points,
    Size,
    as_id,
    as_list,
    as_name,
    as_object,
    brief,
    flat_polygon,
    sides_rectangle,
    size_of,
)
from ocr.datasets.formats.linked_words import LinkedWords
from ocr.datasets.formats.look import Look
from ocr.errors import InputError
from ocr.file_names import shown

_OUTLINES = ("points", "mask", "polygon")
"""Members that hold a word's outline, one in each version."""
_LINKS = ("imgToAnns", "img2Anns")


def read_coco_text(path: Path, images: ImageFolder) -> Iterator[AnnotatedImage]:
    """Yields the images of a set in their order; one without words is an image without text.

    Raises:
        FileNotFoundError: there is no such file.
        InputError: the file is not in this format, it holds several sets and none was chosen, or an id points nowhere.
        OSError: the file cannot be read.
    """
    parts = _Parts(path)
    with JsonText(path) as text:
        for key in text.members():
            if key == "imgs":
                for image_id in text.members():
                    parts.add_image(image_id, text.value())
            elif key == "anns":
                for word in text.members():
                    parts.add_word(word, text.value())
            elif key in _LINKS:
                for image_id in text.members():
                    parts.add_links(image_id, text.value())
            else:
                text.skip()
            parts.seen[key] += 1
        text.end()
    parts.check(images.annotation_set)
    yield from parts.linked(images)


class _Parts:
    """Images and words of one file while it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seen: Counter[str] = Counter()
        """Number of times that the file holds each top-level key."""
        self._images: dict[str, tuple[str, Size, str]] = {}
        """File name, size (H, W) and set by id."""
        self._sets: Counter[str] = Counter()
        self._words = LinkedWords()
        self._num_words: Counter[str] = Counter()
        self._num_links: dict[str, int] = {}

    def add_image(self, image_id: str, value: Any) -> None:
        if image_id in self._images:
            raise InputError(f"{self.path}: imgs: found the id {brief(image_id)} twice; expected each id once")
        name, size, of_set = image_id, NO_SIZE, ""
        try:
            entry = as_object(value, "the image")
            of_set = str(entry.get("set", ""))
            name = as_name(entry.get("file_name", entry.get("filename")), "file_name")
            size = size_of(entry, "height", "width")
        except Malformed as error:
            self._words.add_problem(image_id, error.problem())
        self._sets[of_set] += 1
        self._images[image_id] = (name, size, of_set)

    def add_word(self, key: str, value: Any) -> None:
        try:
            entry = as_object(value, "the word")
            image_id = as_id(entry.get("image_id"), "image_id")
        except Malformed as error:
            raise InputError(
                f"{self.path}: anns, word {brief(key)}: found {error.found}; expected {error.expected}"
            ) from error
        self._num_words[image_id] += 1
        try:
            self._words.add(image_id, key, _outline(entry), _is_ignored(entry))
        except Malformed as error:
            self._words.add_problem(image_id, error.problem(key))

    def add_links(self, image_id: str, value: Any) -> None:
        try:
            self._num_links[image_id] = len(as_list(value, "imgToAnns"))
        except Malformed as error:
            self._words.add_problem(image_id, error.problem())

    def check(self, chosen_set: str | None) -> None:
        """Raises InputError unless the parts fit together and the set is known."""
        for key in ("imgs", "anns"):
            if self.seen[key] != 1:
                found = f'the key "{key}" {self.seen[key]} times' if self.seen[key] else f"keys {brief([*self.seen])}"
                raise InputError(
                    f'{self.path}: found {found}; expected COCO-Text or TextOCR: "imgs" and "anns" once each. '
                    "The file of a test set without words cannot be trained on or scored"
                )
        strangers = self._words.images_not_in(self._images)
        if strangers:
            raise InputError(
                f'{self.path}: found words or links of image_id {brief(strangers[0])}, which "imgs" does not list '
                f"({len(strangers):,} such ids); expected an image for each word; add the images or remove the words"
            )
        self._check_set(chosen_set)
        for image_id, num_links in self._num_links.items():
            if image_id in self._images and num_links != self._num_words[image_id]:
                found = f"{num_links} words in imgToAnns, {self._num_words[image_id]} in anns"
                self._words.add_problem(image_id, Malformed(found, "the same words in both").problem())

    def _check_set(self, chosen: str | None) -> None:
        sets = ", ".join(f"{shown(name)} ({count:,} images)" for name, count in self._sets.items())
        if chosen is None and len(self._sets) > 1:
            raise InputError(
                f"{self.path}: found several sets: {sets}; expected one, or else training and validation would share images; "
                "set annotation_set of each split, as in datasets.val_dataset.config.annotation_set=val"
            )
        if chosen is not None and chosen not in self._sets:
            raise InputError(f"{self.path}: found the sets {sets}; expected annotation_set={chosen} to be one of them")

    def linked(self, images: ImageFolder) -> Iterator[AnnotatedImage]:
        """Yields the images of the chosen set with their words."""
        for image_id, (name, size, of_set) in self._images.items():
            if images.annotation_set not in (None, of_set):
                continue
            yield self._words.image(image_id, images.locate(name), self.path.name, size)


def _outline(entry: dict[str, Any]) -> Points:
    for name in _OUTLINES:
        if name in entry:
            return flat_polygon(entry[name], name)
    return sides_rectangle(entry.get("bbox"), "bbox")


def _is_ignored(entry: dict[str, Any]) -> bool:
    legibility = entry.get("legibility")
    if legibility is None:
        return entry.get("utf8_string") == "."
    if legibility not in ("legible", "illegible"):
        raise Malformed(f"legibility = {brief(legibility)}", '"legible" or "illegible"')
    return bool(legibility == "illegible")


def examine_coco_text(look: Look) -> Fit:
    """Judges a file by its top-level keys: objects `imgs` and `anns` are the mark of these formats."""
    document = look.json
    if isinstance(document, dict):
        for key in ("imgs", "anns", "imgToAnns"):
            if isinstance(document.get(key), dict):
                return Fit(Confidence.CERTAIN, f'an object "{key}" by id')
    return NO_FIT


COCO_TEXT = AnnotationFormat(
    "coco_text", "COCO-Text or TextOCR", "file", examine_coco_text, read_coco_text, has_sets=True
)
