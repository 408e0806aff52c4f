"""Reads labelme: one JSON file per image, in a folder.

    {"version": "5.4.1", "flags": {}, "imagePath": "a.jpg", "imageData": null, "imageHeight": 480, "imageWidth": 640,
     "shapes": [{"label": "text", "points": [[x, y], ...], "shape_type": "polygon", "flags": {}, "group_id": null}]}

Shapes: `polygon` (also without `shape_type`), `oriented_rectangle`, and `rectangle` of two opposite corners. Circles, lines, points
and masks are refused by name. A label or a set flag named `ignore`, `illegible`, `###` or the like marks a don't-care region; every
other label is text, since it often is the transcription. `imageData`, a copy of the image, is passed over. `imagePath` is relative
to the JSON file and may have backslashes; if the image folder has no such image, the image with the JSON file's own name is
meant. labelme shows images upright, so coordinates are those after EXIF rotation.

Source: labelme, `labelme/label_file.py` (keys, EXIF), `labelme/utils/shape.py` (shapes).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ocr.datasets.folder_listing import files_with
from ocr.datasets.formats.annotated import AnnotatedImage, AnnotatedWord
from ocr.datasets.formats.dont_care import is_ignore_label
from ocr.datasets.formats.image_folder import ImageFolder
from ocr.datasets.formats.interface import NO_FIT, AnnotationFormat, Confidence, Fit
from ocr.datasets.formats.json_text import BrokenJson, JsonText
from ocr.datasets.formats.json_values import (
    NO_SIZE,
    Malformed,
    Points,
    as_list,
    as_name,
    as_object,
    brief,
    nested_polygon,
    rectangle,
    size_of,
)
from ocr.datasets.formats.look import Look


def read_labelme(path: Path, images: ImageFolder) -> Iterator[AnnotatedImage]:
    """Yields the images of all JSON files of a folder, sorted by the files' names.

    A file that cannot be read is a problem of its image.

    Args:
        path: folder of the JSON files, or one such file.
        images: folder of the images.

    Raises:
        FileNotFoundError: the folder is missing or holds no .json file.
        OSError: a file cannot be read.
    """
    paths = [path] if path.is_file() else files_with(path, ".json")
    if not paths:
        raise FileNotFoundError(f"{path}: found no .json file; expected a folder of labelme files, one per image")
    for file in paths:
        yield _read_file(file, images)


def _read_file(path: Path, images: ImageFolder) -> AnnotatedImage:
    members: dict[str, Any] = {}
    name, size, shapes = _image_beside(path, images), NO_SIZE, []
    problems = []
    try:
        with JsonText(path) as text:
            for key in text.members():
                if key in members:
                    raise Malformed(f"the key {brief(key)} twice", "each key once")
                if key == "imageData":
                    text.skip()
                else:
                    members[key] = text.value()
            text.end()
        if "shapes" not in members:
            raise Malformed(f"keys {brief([*members])}", 'a labelme file with "shapes"')
        name = _image_of(path, members, images)
        size = size_of(members, "imageHeight", "imageWidth")
        shapes = as_list(members["shapes"], "shapes")
    except BrokenJson as error:
        problems.append(Malformed(f"a file that is not JSON: {error.found}", "a whole JSON file in UTF-8").problem())
    except Malformed as error:
        problems.append(error.problem())
    words = []
    for number, shape in enumerate(shapes):
        try:
            words.append(_read_shape(str(number), shape))
        except Malformed as error:
            problems.append(error.problem(str(number)))
    return AnnotatedImage(name, path.name, tuple(words), size, tuple(problems))


def _image_beside(path: Path, images: ImageFolder) -> str:
    """Returns the image with the JSON file's own name; without one, the name that it would have."""
    same = images.with_stem(path.stem)
    return same[0] if same else path.stem + images.extensions[0]


def _image_of(path: Path, members: dict[str, Any], images: ImageFolder) -> str:
    written = as_name(members.get("imagePath"), "imagePath")
    found = images.find(written)
    if found is not None:
        return found
    same = images.with_stem(path.stem)
    return same[0] if same else written


def _read_shape(key: str, value: Any) -> AnnotatedWord:
    shape = as_object(value, "the shape")
    flags = as_object(shape.get("flags") or {}, "flags")
    marks = [shape.get("label"), *(flag for flag, is_set in flags.items() if is_set)]
    return AnnotatedWord(key, _outline(shape), any(map(is_ignore_label, marks)))


def _outline(shape: dict[str, Any]) -> Points:
    kind = shape.get("shape_type") or "polygon"
    if kind in ("polygon", "oriented_rectangle"):
        return nested_polygon(shape.get("points"), "points")
    if kind != "rectangle":
        raise Malformed(f"a shape of type {brief(kind)}", "a polygon or rectangle")
    corners = nested_polygon(shape.get("points"), "points", min_points=2)
    if len(corners) != 2:
        raise Malformed(f"a rectangle of {len(corners)} points", "two opposite corners")
    (left, top), (right, bottom) = corners.min(axis=0), corners.max(axis=0)
    return rectangle(left, top, right - left, bottom - top)


def examine_labelme(look: Look) -> Fit:
    """Judges a file, or some files of a folder, by the keys `shapes` and `imagePath`."""
    if not look.is_folder:
        return _examine_file(look)
    fits = [_examine_file(file) for file in look.files(".json")]
    return max(fits, key=lambda fit: fit.confidence, default=NO_FIT)


def _examine_file(look: Look) -> Fit:
    document = look.json
    if isinstance(document, dict) and isinstance(document.get("shapes"), list):
        return Fit(Confidence.CERTAIN, 'a list "shapes"')
    if isinstance(document, dict) and {"imagePath", "imageData"} & document.keys():
        return Fit(Confidence.LIKELY, '"imagePath"')
    return NO_FIT


LABELME = AnnotationFormat("labelme", "labelme", "either", examine_labelme, read_labelme, frame="upright")
