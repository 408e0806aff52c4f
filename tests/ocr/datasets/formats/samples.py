"""One small set of images, written in every format in the format's own words."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

HEIGHT, WIDTH = 48, 64
QUAD = [[4.5, 4], [20, 5], [20, 12.25], [4, 12]]
CURVED = [[30, 4], [40, 8], [50, 4], [50, 12], [40, 16], [30, 12]]
RECTANGLE = [[10, 20], [40, 20], [40, 30], [10, 30]]
WORDS: dict[str, list[tuple[list[list[float]], bool]]] = {
    "a.jpg": [(QUAD, False), (CURVED, False), (RECTANGLE, True)],
    "영수증 2.jpg": [],
    "c.jpg": [(RECTANGLE, False)],
}
"""Polygons (x, y) and whether they are don't-care regions, by file name. The second image has no text."""


def write_images(folder: Path) -> Path:
    """Writes the images to `folder`/images and returns that folder."""
    images = folder / "images"
    images.mkdir()
    for name in WORDS:
        Image.new("RGB", (WIDTH, HEIGHT), "white").save(images / name)
    return images


def flat(polygon: list[list[float]]) -> list[float]:
    return [number for point in polygon for number in point]


def box(polygon: list[list[float]]) -> list[float]:
    """Returns left, top, right, bottom."""
    xs, ys = zip(*polygon, strict=True)
    return [min(xs), min(ys), max(xs), max(ys)]


def sides(polygon: list[list[float]]) -> list[float]:
    """Returns x, y, width, height."""
    left, top, right, bottom = box(polygon)
    return [left, top, right - left, bottom - top]


def upstage() -> Any:
    return {
        "images": {
            name: {
                "img_h": HEIGHT,
                "img_w": WIDTH,
                "words": {
                    f"{number:04d}": {"points": polygon, "illegibility": ignore}
                    for number, (polygon, ignore) in enumerate(words, 1)
                },
            }
            for name, words in WORDS.items()
        }
    }


def mmocr() -> Any:
    return {
        "metainfo": {
            "dataset_type": "TextDetDataset",
            "task_name": "textdet",
            "category": [{"id": 0, "name": "text"}],
        },
        "data_list": [
            {
                "instances": [
                    {"polygon": flat(polygon), "bbox": box(polygon), "bbox_label": 0, "ignore": ignore}
                    for polygon, ignore in words
                ],
                "img_path": f"textdet_imgs/train/{name}",
                "height": HEIGHT,
                "width": WIDTH,
            }
            for name, words in WORDS.items()
        ],
    }


def doctr() -> Any:
    return {
        name: {
            "img_dimensions": [HEIGHT, WIDTH],
            "img_hash": "5ac1d3",
            "polygons": {
                "words": [polygon for polygon, ignore in words if not ignore],
                "illegible": [polygon for polygon, ignore in words if ignore],
            },
        }
        for name, words in WORDS.items()
    }


def coco() -> Any:
    annotations = [
        {
            "id": 100 * image_id + number,
            "image_id": image_id,
            "category_id": 1,
            "segmentation": [flat(polygon)],
            "area": 1.0,
            "bbox": sides(polygon),
            "iscrowd": int(ignore),
        }
        for image_id, words in enumerate(WORDS.values(), 1)
        for number, (polygon, ignore) in enumerate(words, 1)
    ]
    return {
        "info": {"description": "receipts", "year": 2026},
        "licenses": [],
        "images": [
            {"id": image_id, "file_name": name, "height": HEIGHT, "width": WIDTH, "license": 0}
            for image_id, name in enumerate(WORDS, 1)
        ],
        "annotations": annotations[::-1][:1] + annotations[:-1],
        "categories": [{"id": 1, "name": "text", "supercategory": ""}],
    }


def _by_id(outline: str, texts: tuple[dict[str, str], dict[str, str]]) -> Any:
    """COCO-Text or TextOCR, whose words have `outline` and the members of `texts` if legible, illegible."""
    anns = {
        f"{image_id}_{number}": {
            "id": f"{image_id}_{number}",
            "image_id": image_id,
            "bbox": sides(polygon),
            outline: flat(polygon),
            "area": 1.0,
            **texts[ignore],
        }
        for image_id, words in enumerate(WORDS.values(), 1)
        for number, (polygon, ignore) in enumerate(words, 1)
    }
    return {
        "info": {},
        "imgs": {
            str(image_id): {
                "id": image_id,
                "width": WIDTH,
                "height": HEIGHT,
                "set": "train",
                "file_name": f"train/{name}",
            }
            for image_id, name in enumerate(WORDS, 1)
        },
        "anns": anns,
        "imgToAnns": {
            str(image_id): [key for key, word in anns.items() if word["image_id"] == image_id]
            for image_id in range(1, len(WORDS) + 1)
        },
    }


def text_ocr() -> Any:
    return _by_id("points", ({"utf8_string": "text"}, {"utf8_string": "."}))


def coco_text() -> Any:
    legible = {"legibility": "legible", "class": "machine printed", "language": "english", "utf8_string": "the"}
    return _by_id("mask", (legible, {"legibility": "illegible", "class": "others", "language": "na"}))


def labelme(name: str) -> Any:
    return {
        "version": "5.4.1",
        "flags": {},
        "shapes": [_shape(polygon, ignore) for polygon, ignore in WORDS[name]],
        "imagePath": f"..\\images\\{name}",
        "imageData": "/9j/4AAQSkZJRg" * 9,
        "imageHeight": HEIGHT,
        "imageWidth": WIDTH,
    }


def _shape(polygon: list[list[float]], ignore: bool) -> Any:
    is_rectangle = polygon == RECTANGLE
    return {
        "label": "ignore" if ignore else "text",
        "points": [polygon[2], polygon[0]] if is_rectangle else polygon,
        "group_id": None,
        "description": "",
        "shape_type": "rectangle" if is_rectangle else "polygon",
        "flags": {},
        "mask": None,
    }


def _percent(polygon: list[list[float]]) -> Any:
    if polygon != RECTANGLE:
        return {"points": [[x / WIDTH * 100, y / HEIGHT * 100] for x, y in polygon], "closed": True}
    x, y, width, height = sides(polygon)
    shape = {"x": x / WIDTH, "y": y / HEIGHT, "width": width / WIDTH, "height": height / HEIGHT}
    return {**{key: value * 100 for key, value in shape.items()}, "rotation": 0}


SIZE = {"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0}


def label_studio() -> Any:
    return [
        {
            "id": number,
            "data": {"ocr": f"/data/upload/3/1a2b3c4d-{name}"},
            "annotations": [{"id": 7, "was_cancelled": False, "ground_truth": False, "result": _results(words)}],
            "predictions": [],
            "file_upload": f"1a2b3c4d-{name}",
        }
        for number, (name, words) in enumerate(WORDS.items(), 1)
    ]


def _results(words: list[tuple[list[list[float]], bool]]) -> list[Any]:
    """The results of the OCR template: three of each region."""
    results = []
    for number, (polygon, ignore) in enumerate(words):
        common = {"id": f"r{number}", "to_name": "image", "origin": "manual", **SIZE}
        value = _percent(polygon)
        shape = "polygon" if "points" in value else "rectangle"
        text = "###" if ignore else "text"
        results += [
            {**common, "type": shape, "from_name": shape, "value": value},
            {**common, "type": "labels", "from_name": "label", "value": {**value, "labels": ["Text"]}},
            {**common, "type": "textarea", "from_name": "transcription", "value": {**value, "text": [text]}},
        ]
    return results


def label_studio_min() -> Any:
    return [
        {
            "ocr": f"/data/local-files/?d=receipts/{name.replace(' ', '%20')}",
            "id": number,
            "poly": [{**_percent(polygon), **SIZE} for polygon, _ in words if polygon != RECTANGLE],
            "bbox": [{**_percent(polygon), **SIZE} for polygon, _ in words if polygon == RECTANGLE],
            "label": [
                {**_percent(polygon), "labels": ["ignore" if ignore else "Text"], **SIZE} for polygon, ignore in words
            ],
            "transcription": ["text"] * len(words),
            "annotator": 1,
            "annotation_id": 40 + number,
        }
        for number, (name, words) in enumerate(WORDS.items(), 1)
    ]


def _one_file(document: Callable[[], Any]) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        path = folder / "annotations.json"
        path.write_text(json.dumps(document(), ensure_ascii=False), encoding="utf-8")
        return path

    return write


def _write_labelme(folder: Path) -> Path:
    annotations = folder / "annotations"
    annotations.mkdir()
    for name in WORDS:
        path = annotations / f"{Path(name).stem}.json"
        path.write_text(json.dumps(labelme(name), ensure_ascii=False), encoding="utf-8")
    return annotations


WRITERS: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "upstage": ("upstage", _one_file(upstage)),
    "mmocr": ("mmocr", _one_file(mmocr)),
    "doctr": ("doctr", _one_file(doctr)),
    "coco": ("coco", _one_file(coco)),
    "text_ocr": ("coco_text", _one_file(text_ocr)),
    "coco_text": ("coco_text", _one_file(coco_text)),
    "labelme": ("labelme", _write_labelme),
    "label_studio": ("label_studio", _one_file(label_studio)),
    "label_studio_min": ("label_studio", _one_file(label_studio_min)),
}
"""By the name of a form: its format, and the function that writes the annotations to a folder and returns their path."""
