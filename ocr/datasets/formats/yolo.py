"""Reads YOLO label files: one `<image>.txt` per image, one region per line, in parts of the image's width and height.

    class x1 y1 x2 y2 x3 y3 ...          polygons: segmentation, and oriented boxes with four points
    class centre_x centre_y width height boxes

The class is ignored; there are no don't-care regions. An image without a label file is not read. The coordinates belong to the
upright image, since Ultralytics turns images by EXIF, and so do the tools that write these files.

Sources: docs.ultralytics.com/datasets/segment, /datasets/obb and /datasets/detect; docs.cvat.ai, "Ultralytics YOLO".
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ocr.datasets.formats.annotated import AnnotatedImage, AnnotatedWord, FormatProblem
from ocr.datasets.formats.image_folder import ImageFolder
from ocr.datasets.formats.interface import NO_FIT, AnnotationFormat, Confidence, Fit
from ocr.datasets.formats.look import Look
from ocr.datasets.formats.rectangles import Corners
from ocr.datasets.formats.text_folder import lines_in, lines_of, text_files, with_images
from ocr.datasets.formats.text_lines import ENOUGH, Line

_OTHER_FILES = ("classes.txt", "labels.txt", "obj.names.txt")
"""Text files beside the labels that list the classes."""
_MAX_SHARE = 1.5
"""Largest coordinate that may still be a part of the image's size: polygons may stand out a little."""


def examine_yolo(look: Look) -> Fit:
    """Judges by lines of an integer and of coordinates between 0 and 1."""
    files = [file for file in look.files(".txt", 8) if file.path.name.lower() not in _OTHER_FILES]
    lines = lines_in(files)
    if not lines or sum(map(_is_region, lines)) < ENOUGH * len(lines):
        return NO_FIT
    return Fit(Confidence.CERTAIN, "a class and coordinates between 0 and 1 in each line")


def read_yolo(annotation_dir: Path, images: ImageFolder) -> Iterator[AnnotatedImage]:
    """Yields the images that have a label file, sorted by its name.

    Raises:
        FileNotFoundError: the folder is missing or holds no .txt file.
        InputError: two label files belong to the same image.
    """
    for path, filename, problems in with_images(text_files(annotation_dir, _OTHER_FILES), images):
        to_pixels = images.pixels_from_upright_shares(filename)
        words = []
        for line in lines_of(path):
            points = _shares(line)
            if isinstance(points, FormatProblem):
                problems.append(points)
            elif to_pixels is not None:  # otherwise the audit reports the image
                words.append(AnnotatedWord(str(line.number), points @ to_pixels[:, :2].T + to_pixels[:, 2]))
        yield AnnotatedImage(filename, path.name, tuple(words), problems=tuple(problems), keys_are_lines=True)


YOLO = AnnotationFormat("yolo", "YOLO label files", "folder", examine_yolo, read_yolo)


def _is_region(line: Line) -> bool:
    if isinstance(_shares(line), FormatProblem):
        return False
    values = line.numbers
    return line.fields[0].isdecimal() and min(values[1:]) >= 1 - _MAX_SHARE


def _shares(line: Line) -> np.ndarray | FormatProblem:
    """Returns the points (n, 2) of a line, in parts of the image's size."""
    values = line.numbers
    if line.num_leading != len(line.fields):
        problem = f"the text {line.fields[line.num_leading][:40]!r}"
        return FormatProblem(str(line.number), problem, "a class and coordinates, all of them numbers")
    if not all(abs(value) <= _MAX_SHARE for value in values[1:]):  # NaN compares false
        worst = next(value for value in values[1:] if not abs(value) <= _MAX_SHARE)
        return FormatProblem(str(line.number), f"a coordinate {worst:g}", "coordinates between 0 and 1")
    if len(values) == 5:
        left, top, right, bottom = Corners.CENTRE_WIDTH_HEIGHT.box(values[1:])
        return np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
    if len(values) < 7 or len(values) % 2 == 0:
        expected = "a class and 4 (a box) or an even number from 6 on (a polygon)"
        return FormatProblem(str(line.number), f"{len(values)} numbers", expected)
    return np.array(values[1:]).reshape(-1, 2)
