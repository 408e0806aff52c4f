"""Reads the JSON and JSON-MIN exports of Label Studio: one file, a list of tasks.

    [{"id": 1, "data": {"ocr": "/data/upload/1/1a2b3c4d-a.jpg"},
      "annotations": [{"was_cancelled": false, "ground_truth": false,
                       "result": [{"id": "xY1", "type": "rectanglelabels", "original_width": 600, "original_height": 403,
                                   "image_rotation": 0,
                                   "value": {"x": 5.3, "y": 23.5, "width": 29.1, "height": 31.2, "rotation": 0,
                                             "rectanglelabels": ["Text"]}}]}]}]
    [{"id": 1, "ocr": "/data/upload/1/1a2b3c4d-a.jpg", "bbox": [{"x": 5.3, ..., "original_width": 600, ...}],
      "label": [{"x": 5.3, ..., "labels": ["Text"]}], "transcription": ["text"]}]                            (JSON-MIN)

Coordinates are percentages of the image's width and height. A rectangle is turned clockwise about (x, y), its top left corner, in
pixels. The results of one region share its id: shape, labels and transcription. A label `ignore`, `illegible` or the like, or the
transcription `###` or `*`, marks a don't-care region; every other label is text. Brush masks, ellipses and key points are
refused by name, and so is an image that was turned in the labelling window. A task that was skipped or has no annotation is not
yielded; predictions are not read. Of several annotations, the one marked as ground truth is read.

Sources: https://labelstud.io/guide/export (task, JSON-MIN), https://labelstud.io/guide/storage (addresses of files),
https://labelstud.io/tags/rectanglelabels and https://docs.humansignal.com/includes/image_units.html (units),
HumanSignal/label-studio#5274 (corner of rotation), https://labelstud.io/templates/optical_character_recognition (regions).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from ocr.datasets.formats.annotated import AnnotatedImage, AnnotatedWord
from ocr.datasets.formats.dont_care import is_ignore_label
from ocr.datasets.formats.image_folder import ImageFolder
from ocr.datasets.formats.interface import NO_FIT, AnnotationFormat, Confidence, Fit
from ocr.datasets.formats.json_text import JsonText
from ocr.datasets.formats.json_values import (
    Malformed,
    Points,
    as_flag,
    as_list,
    as_number,
    as_object,
    brief,
    nested_polygon,
    rectangle,
)
from ocr.datasets.formats.look import Look
from ocr.errors import InputError

_IMAGE_KEYS = ("ocr", "image")
"""Names that Label Studio's own templates give to the image of a task."""
_SHAPE_KEYS = ("x", "y", "width", "height", "rotation", "points")
_OTHER_SHAPES = {
    "rle": "a brush mask",
    "imageDataURL": "a bitmask",
    "radiusX": "an ellipse",
    "vertices": "a vector",
    "sequence": "a region of a video",
}
"""Kind of a region whose value has this member."""
_UPLOAD_PREFIX = re.compile(r"[0-9a-f]{8}-(?=.)")
"""Label Studio puts this before the name of each uploaded file."""


def read_label_studio(path: Path, images: ImageFolder) -> Iterator[AnnotatedImage]:
    """Yields the images of the tasks in their order, each as soon as it is read.

    Args:
        path: the JSON file.
        images: folder of the images, with their original names or those that Label Studio gave them.

    Raises:
        FileNotFoundError: there is no such file.
        InputError: the file is not a list of tasks, or no task has an annotation.
        OSError: the file cannot be read.
    """
    num_tasks = num_images = 0
    with JsonText(path) as text:
        if text.next_mark() != "[":
            raise InputError(
                f"{path}: found a JSON value that begins with {text.next_mark()!r}; expected a list of Label Studio tasks; "
                "export JSON or JSON-MIN"
            )
        for index in text.elements():
            image = _read_task(images, path.name, index, text.value())
            num_tasks += 1
            if image is not None:
                num_images += 1
                yield image
        text.end()
    if num_tasks and not num_images:
        raise InputError(
            f"{path}: none of the {num_tasks:,} tasks has a submitted annotation; expected annotated tasks; label some, "
            "and export again"
        )


@dataclass
class _Region:
    """One region of an image, from all results with its id."""

    points: Points | None = None
    """(n, 2) in pixels; None: no result had a shape yet."""
    problem: Malformed | None = None
    labels: list[Any] = field(default_factory=list)
    """Labels and transcriptions."""


class _Task:
    """An image and its regions while they are read."""

    def __init__(self, images: ImageFolder, filename: str) -> None:
        self.images = images
        self.filename = filename
        self.regions: dict[str, _Region] = {}
        self.size: tuple[float, float] | None = None
        """(H, W) as the regions state it."""

    def add(self, key: str, value: dict[str, Any], stated: dict[str, Any]) -> None:
        """Adds what one result says of a region.

        Args:
            key: identifies the region.
            value: shape in percent, labels, transcription.
            stated: the object with `original_width`, `original_height` and `image_rotation`.
        """
        region = self.regions.setdefault(key, _Region())
        for part in value.values():
            if isinstance(part, list) and part and isinstance(part[0], str):
                region.labels += part
        if region.points is not None or region.problem is not None:
            return
        try:
            region.points = self._points(value, stated)
        except Malformed as error:
            region.problem = error

    def image(self, source: str) -> AnnotatedImage:
        """Returns the image with its words."""
        words, problems = [], []
        for key, region in self.regions.items():
            if region.problem is not None:
                problems.append(region.problem.problem(key))
            elif region.points is not None:
                words.append(AnnotatedWord(key, region.points, any(map(is_ignore_label, region.labels))))
        return AnnotatedImage(self.filename, source, tuple(words), self.size or (None, None), tuple(problems))

    def _points(self, value: dict[str, Any], stated: dict[str, Any]) -> Points | None:
        """Returns the shape of a region in pixels, or None if the value has none."""
        for name, kind in _OTHER_SHAPES.items():
            if name in value:
                raise Malformed(kind, "a rectangle or polygon")
        is_polygon = "points" in value
        if not is_polygon and "x" not in value:
            return None
        if not is_polygon and "height" not in value:
            raise Malformed("a key point", "a rectangle or polygon")
        height, width = self._checked_size(stated)
        if is_polygon:
            return nested_polygon(value["points"], "points") * (width / 100, height / 100)
        left, top, across, down = (as_number(value.get(name), name) for name in ("x", "y", "width", "height"))
        degrees = as_number(value.get("rotation") or 0, "rotation")
        return rectangle(left / 100 * width, top / 100 * height, across / 100 * width, down / 100 * height, degrees)

    def _checked_size(self, stated: dict[str, Any]) -> tuple[float, float]:
        """Returns the image's size (H, W) as a region states it, or as its file does."""
        if as_number(stated.get("image_rotation") or 0, "image_rotation") % 360:
            found = f"an image turned by {brief(stated['image_rotation'])} degrees in the labelling window"
            raise Malformed(found, "regions of the image as it is; turn the file itself")
        if stated.get("original_width") is None or stated.get("original_height") is None:
            actual = self.images.size_of(self.filename)
            if actual is None:
                raise Malformed("no original_width and original_height", "the size that the percentages refer to")
            return actual
        size = (
            as_number(stated["original_height"], "original_height"),
            as_number(stated["original_width"], "original_width"),
        )
        if not min(size) > 0:
            raise Malformed(f"original_width x original_height = {size[1]:g} x {size[0]:g}", "a size in pixels")
        if self.size is None:
            self.size = size
        if size != self.size:
            sizes = f"original_width x original_height = {size[1]:g} x {size[0]:g}"
            raise Malformed(sizes, f"{self.size[1]:g} x {self.size[0]:g}, as in the regions before")
        return size


def _read_task(images: ImageFolder, source: str, index: int, value: Any) -> AnnotatedImage | None:
    """Returns the image of a task, or None if nobody has annotated it."""
    name = f"task {index}"
    try:
        entry = as_object(value, "the task")
        is_minimal = "annotations" not in entry and "completions" not in entry
        if is_minimal:
            task = _Task(images, _filename(entry, images))
            _add_minimal(task, entry)
            return task.image(source)
        annotation = _chosen_annotation(entry)
        if annotation is None:
            return None
        name = _filename(as_object(entry.get("data"), "data"), images)
        task = _Task(images, name)
        _add_results(task, annotation)
        return task.image(source)
    except Malformed as error:
        return AnnotatedImage(name, source, problems=(error.problem(),))


def _chosen_annotation(entry: dict[str, Any]) -> dict[str, Any] | None:
    listed = as_list(entry.get("annotations", entry.get("completions")), "annotations")
    annotations = [as_object(part, "an annotation") for part in listed]
    submitted = [part for part in annotations if not as_flag(part, "was_cancelled")]
    true = [part for part in submitted if as_flag(part, "ground_truth")]
    if len(submitted) > 1 and len(true) != 1:
        found = f"{len(submitted)} annotations of one image, {len(true)} of them marked as ground truth"
        raise Malformed(found, "one; mark it as ground truth in Label Studio")
    chosen = true or submitted
    return chosen[0] if chosen else None


def _add_results(task: _Task, annotation: dict[str, Any]) -> None:
    for number, part in enumerate(as_list(annotation.get("result"), "result")):
        result = as_object(part, "a result")
        key = result.get("id")
        value = result.get("value")
        if value is not None:  # a relation between regions has none
            task.add(key if isinstance(key, str) and key else str(number), as_object(value, "value"), result)


def _add_minimal(task: _Task, entry: dict[str, Any]) -> None:
    """Adds the regions of a JSON-MIN task. They have no ids: results with the same shape belong together."""
    texts: list[Any] = []
    number_of: dict[str, str] = {}
    for name, part in entry.items():
        values = part if isinstance(part, list) else [part]
        if name == "transcription":
            texts = values
        for value in values:
            if isinstance(value, dict):
                shape = repr([value.get(key) for key in _SHAPE_KEYS])
                task.add(number_of.setdefault(shape, str(len(number_of))), value, value)
    if len(texts) == len(task.regions):
        for region, text in zip(task.regions.values(), texts, strict=True):
            region.labels.append(text)


def _filename(data: dict[str, Any], images: ImageFolder) -> str:
    """Returns the file that a task's data name."""
    texts = {key: text for key, text in data.items() if isinstance(text, str)}
    named = [texts[key] for key in _IMAGE_KEYS if key in texts]
    others = [text for text in texts.values() if _paths_in(text)[0].lower().endswith(images.extensions)]
    if not named and not others:
        raise Malformed(f"data {brief(data)}", f"the name of an image under {' or '.join(_IMAGE_KEYS)}")
    return _located((named or others)[0], images)


def _located(address: str, images: ImageFolder) -> str:
    if address.startswith("data:"):
        raise Malformed("an image inside the task (data:)", "the name of a file")
    paths = _paths_in(address)
    names = [*paths, *(_without_prefix(path) for path in paths)]
    for name in names:
        found = images.find(name)
        if found is not None:
            return found
    return _without_prefix(paths[0]).rpartition("/")[2]


def _without_prefix(path: str) -> str:
    folder, slash, name = path.rpartition("/")
    return folder + slash + _UPLOAD_PREFIX.sub("", name, count=1)


def _paths_in(address: str) -> list[str]:
    """Returns the paths that an address may mean, the likeliest first: a file, /data/upload/..., /data/local-files/?d=..., s3://."""
    try:
        parts = urlsplit(address)
    except ValueError:  # such as half an IPv6 address
        return [address]
    path = parts.query.removeprefix("d=") if parts.path.endswith("/local-files/") else parts.path
    return [unquote(path), path, address]


def examine_label_studio(look: Look) -> Fit:
    """Judges a file by its first task: `data` and `annotations`, or shapes with `original_width` (JSON-MIN)."""
    document = look.json
    first = document[0] if isinstance(document, list) and document else None
    if not isinstance(first, dict):
        return NO_FIT
    if isinstance(first.get("data"), dict):
        return Fit(Confidence.CERTAIN, 'tasks with "data"')
    if isinstance(first.get("annotations"), list):
        return Fit(Confidence.LIKELY, 'tasks with "annotations"')
    regions = [part[0] for part in first.values() if isinstance(part, list) and part and isinstance(part[0], dict)]
    if any("original_width" in region for region in regions) or "annotation_id" in first:
        return Fit(Confidence.CERTAIN, "tasks of JSON-MIN")
    return NO_FIT


LABEL_STUDIO = AnnotationFormat(
    "label_studio", "Label Studio", "file", examine_label_studio, read_label_studio, frame="upright"
)
