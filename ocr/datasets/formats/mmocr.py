"""Reads the text detection JSON of MMOCR 1.x: one file of images, each with its words.

    {"metainfo": {"dataset_type": "TextDetDataset", "task_name": "textdet", "category": [{"id": 0, "name": "text"}]},
     "data_list": [{"img_path": "imgs/a.jpg", "height": 640, "width": 640,
                    "instances": [{"polygon": [x1, y1, x2, y2, ...], "bbox": [left, top, right, bottom],
                                   "bbox_label": 0, "ignore": false}]}]}

`ignore` true marks a don't-care region. A word without `polygon` is its `bbox`. The files of text spotting, which add `text`, are
read too; those of text recognition have no polygons and are refused by name. MMOCR 0.x wrote COCO.

Source: MMOCR 1.x, `mmocr/datasets/preparers/packers/textdet_packer.py` and `mmocr/datasets/ocr_dataset.py`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ocr.datasets.formats.annotated import AnnotatedImage, AnnotatedWord
from ocr.datasets.formats.image_folder import ImageFolder
from ocr.datasets.formats.interface import NO_FIT, AnnotationFormat, Confidence, Fit
from ocr.datasets.formats.json_text import JsonText
from ocr.datasets.formats.json_values import (
    NO_SIZE,
    Malformed,
    Points,
    as_flag,
    as_list,
    as_name,
    as_object,
    brief,
    corners_rectangle,
    flat_polygon,
    size_of,
)
from ocr.datasets.formats.look import Look
from ocr.errors import InputError


def read_mmocr(path: Path, images: ImageFolder) -> Iterator[AnnotatedImage]:
    """Yields the images of `data_list` in their order, each as soon as it is read.

    Raises:
        FileNotFoundError: there is no such file.
        InputError: the file is not in this format, or holds text recognition.
        OSError: the file cannot be read.
    """
    keys = []
    with JsonText(path) as text:
        for key in text.members():
            if key == "data_list" and key not in keys:
                for index in text.elements():
                    entry = text.value()
                    if index == 0:
                        _refuse_recognition(path, entry)
                    yield _read_image(images, path.name, index, entry)
            else:
                text.skip()
            keys.append(key)
        text.end()
    if keys.count("data_list") != 1:
        found = f'the key "data_list" {keys.count("data_list")} times' if "data_list" in keys else f"keys {brief(keys)}"
        raise InputError(f'{path}: found {found}; expected MMOCR 1.x: {{"metainfo": ..., "data_list": [...]}}')


def _refuse_recognition(path: Path, entry: Any) -> None:
    instances = entry.get("instances") if isinstance(entry, dict) else None
    first = instances[0] if isinstance(instances, list) and instances else None
    if isinstance(first, dict) and "text" in first and not {"polygon", "bbox"} & first.keys():
        raise InputError(
            f"{path}: found texts without polygons, the labels of text recognition; expected the file of text detection, "
            "such as textdet_train.json"
        )


def _read_image(images: ImageFolder, source: str, index: int, value: Any) -> AnnotatedImage:
    name, size, instances = f"data_list[{index}]", NO_SIZE, []
    problems = []
    try:
        entry = as_object(value, name)
        name = images.locate(as_name(entry.get("img_path"), "img_path"))
        size = size_of(entry, "height", "width")
        instances = as_list(entry.get("instances"), "instances")
    except Malformed as error:
        problems.append(error.problem())
    words = []
    for number, instance in enumerate(instances):
        try:
            entry = as_object(instance, "the instance")
            words.append(AnnotatedWord(str(number), _outline(entry), as_flag(entry, "ignore")))
        except Malformed as error:
            problems.append(error.problem(str(number)))
    return AnnotatedImage(name, source, tuple(words), size, tuple(problems))


def _outline(entry: dict[str, Any]) -> Points:
    if entry.get("polygon") is not None:
        return flat_polygon(entry["polygon"], "polygon")
    if entry.get("bbox") is not None:
        return corners_rectangle(entry["bbox"], "bbox")
    raise Malformed(f"keys {brief([*entry])}", '"polygon" or "bbox"')


def examine_mmocr(look: Look) -> Fit:
    """Judges a file by its top-level keys `metainfo` and `data_list`."""
    document = look.json
    if isinstance(document, dict) and isinstance(document.get("data_list"), list):
        return Fit(Confidence.CERTAIN, 'a list "data_list"')
    if isinstance(document, dict) and isinstance(document.get("metainfo"), dict):
        return Fit(Confidence.LIKELY, 'an object "metainfo"')
    return NO_FIT


MMOCR = AnnotationFormat("mmocr", "MMOCR 1.x", "file", examine_mmocr, read_mmocr)
