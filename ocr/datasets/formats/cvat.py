"""Reads "CVAT for images 1.1": one XML file for all images, `annotations.xml` in CVAT's archive.

    <annotations>
      <image id="0" name="a.jpg" width="640" height="480">
        <polygon label="text" occluded="0" points="10.0,20.5;110.0,20.5;110.0,50.0" />
        <box label="text" occluded="1" xtl="5" ytl="6" xbr="50" ybr="26" rotation="12.5" />
      </image>
    </annotations>

Source: docs.cvat.ai, "XML annotation format", version 1.1, annotation mode. Coordinates are continuous pixels from the top left
corner; `rotation` turns a box clockwise about its centre, in degrees. CVAT knows no don't-care text, so these marks count as one:
`occluded`, a label or a true attribute named ignore, illegible, dont_care and the like, and an attribute of the value ### or *.
"""

from collections.abc import Iterator
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np
import numpy.typing as npt

from ocr.datasets.formats.annotated import AnnotatedImage, AnnotatedWord, FormatProblem
from ocr.datasets.formats.dont_care import IGNORE_TEXTS, is_ignore_label
from ocr.datasets.formats.image_folder import ImageFolder
from ocr.datasets.formats.interface import NO_FIT, AnnotationFormat, Confidence, Fit
from ocr.datasets.formats.look import Look
from ocr.datasets.formats.safe_xml import XmlProblem, elements, root_name, root_of_beginning, stated_size
from ocr.errors import InputError

_OTHER_SHAPES = ("polyline", "points", "ellipse", "cuboid", "skeleton", "mask")


def examine_cvat(look: Look) -> Fit:
    """Judges by the outermost element."""
    if root_of_beginning(look.head) != "annotations":
        return NO_FIT
    return Fit(Confidence.CERTAIN, "XML of <annotations>")


def read_cvat(path: Path, images: ImageFolder) -> Iterator[AnnotatedImage]:
    """Yields the images of an XML file in its order.

    Raises:
        InputError: the file is no XML of CVAT for images.
        OSError: the file cannot be read.
    """
    expected = "expected a whole file in the format CVAT for images 1.1; export it again"
    try:
        root = root_name(path)
        if root != "annotations":
            raise InputError(f"{path}: found the XML element <{root}>; {expected}")
        for element in elements(path, ("image", "track")):
            if element.tag == "track":
                raise InputError(f"{path}: found a <track>, as in the format CVAT for video; {expected}")
            yield _read_image(element, path.name, images)
    except XmlProblem as error:
        raise InputError(f"{path}: not a readable XML file: {error}; {expected}") from error


CVAT = AnnotationFormat("cvat", "CVAT for images 1.1", "file", examine_cvat, read_cvat)


def _read_image(element: Element, source: str, images: ImageFolder) -> AnnotatedImage:
    size, problems = stated_size(element, "height", "width")
    filename = images.locate(element.get("name", ""))
    if not filename:
        problems.insert(0, FormatProblem(None, "an <image> without name", "the name of its file"))
    words = (_read_shape(shape, str(number)) for number, shape in enumerate(element, 1))
    return AnnotatedImage.of(filename, source, [*problems, *(word for word in words if word is not None)], size)


def _read_shape(shape: Element, key: str) -> AnnotatedWord | FormatProblem | None:
    """Returns the word of a shape; None for elements that are none, such as the tags of an image."""
    try:
        if shape.tag == "box":
            points = _box_points(shape)
        elif shape.tag == "polygon":
            points = _polygon_points(shape.get("points", ""))
        elif shape.tag in _OTHER_SHAPES:
            return FormatProblem(key, f"a <{shape.tag}>", "a <polygon> or a <box>")
        else:
            return None
    except ValueError:
        found = f"<{shape.tag} {' '.join(f'{name}={value!r}' for name, value in shape.items())}"[:80]
        return FormatProblem(key, found, 'points="x,y;x,y;..." or xtl, ytl, xbr and ybr, all numbers')
    return AnnotatedWord(key, points, _is_ignored(shape))


def _polygon_points(text: str) -> npt.NDArray[np.float64]:
    """Returns (n, 2) points of "x,y;x,y;..."; raises ValueError for any other text."""
    pairs = [pair.split(",") for pair in text.split(";")]
    if any(len(pair) != 2 for pair in pairs):
        raise ValueError("a point needs two numbers")
    return np.array([[float(x), float(y)] for x, y in pairs])


def _box_points(box: Element) -> npt.NDArray[np.float64]:
    """Returns the (4, 2) corners of a box, clockwise from its top left one; raises ValueError if a number is missing."""
    left, top, right, bottom = (float(box.get(name, "")) for name in ("xtl", "ytl", "xbr", "ybr"))
    corners = np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
    angle = np.radians(float(box.get("rotation", "0")))
    if angle == 0:
        return corners  # turning by 0 would round
    centre = corners.mean(axis=0)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])  # clockwise, since y points down
    return centre + (corners - centre) @ turn.T


def _is_ignored(shape: Element) -> bool:
    if shape.get("occluded", "0").lower() in ("1", "true") or is_ignore_label(shape.get("label")):
        return True
    for attribute in shape.iter("attribute"):
        value = (attribute.text or "").strip()
        if value in IGNORE_TEXTS:
            return True
        if value.lower() in ("true", "1", "yes") and is_ignore_label(attribute.get("name")):
            return True
    return False
