"""Reads ALTO 2 to 4: one XML file for each image, one rectangle or polygon for each line of text.

    <alto xmlns="http://www.loc.gov/standards/alto/ns-v4#">
      <Description><MeasurementUnit>pixel</MeasurementUnit>
        <sourceImageInformation><fileName>a.jpg</fileName></sourceImageInformation></Description>
      <Layout><Page WIDTH="1000" HEIGHT="1400"> ...
        <TextLine ID="l1" HPOS="10" VPOS="20" WIDTH="290" HEIGHT="40">
          <Shape><Polygon POINTS="10,20 300,20 300,60 10,60"/></Shape> <String CONTENT="text"/>

Source: altoxml/schema, alto-2-1.xsd to alto-4-4.xsd. A line's polygon goes before its rectangle. Both "x,y x,y" and "x y x y" are
in use. The unit is pixel, mm10 (tenths of a millimetre) or inch1200. The last two become pixels by the sizes of page and image, or
by the resolution in the image file; without either the file is refused. A line with the text ### is don't-care.
"""

from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np
import numpy.typing as npt
from PIL import Image

from ocr.datasets.formats.annotated import AnnotatedWord, FormatProblem
from ocr.datasets.formats.image_folder import ImageFolder
from ocr.datasets.formats.interface import AnnotationFormat
from ocr.datasets.formats.xml_pages import IGNORE_TEXT, PageContent, XmlPages, points_in, unique_keys

_PER_INCH = {"mm10": 254.0, "inch1200": 1200.0}
_SAME_SCALE = 0.02
"""Largest difference of the horizontal and the vertical scale of a page and its image."""


def _filename(root: Element) -> str:
    return (root.findtext("Description/sourceImageInformation/fileName") or "").strip()


def _read_alto(root: Element, images: ImageFolder, filename: str) -> PageContent:
    pages = list(root.iter("Page"))
    if len(pages) != 1:
        return PageContent(
            [FormatProblem(None, f"{len(pages)} pages", "one <Page>; write one ALTO file for each image")]
        )
    unit = (root.findtext("Description/MeasurementUnit") or "pixel").strip()
    size = _page_size(pages[0])
    scale = _scale(unit, size, images, filename)
    if isinstance(scale, FormatProblem):
        return PageContent([scale])
    lines = list(pages[0].iter("TextLine"))
    keys = unique_keys([line.get("ID", "") for line in lines])
    words = [_read_line(line, key, scale) for line, key in zip(lines, keys, strict=True)]
    declared: tuple[float | None, float | None] = (None, None)
    if unit == "pixel" and size is not None:
        declared = float(size[1]), float(size[0])
    return PageContent(words, declared)


def _page_size(page: Element) -> npt.NDArray[np.float64] | None:
    """Returns (W, H) of the page in the unit of the file; None if they are not stated."""
    try:
        size = np.array([float(page.get("WIDTH", "")), float(page.get("HEIGHT", ""))])
    except ValueError:
        return None
    return size if np.isfinite(size).all() and (size > 0).all() else None


def _scale(
    unit: str, page: npt.NDArray[np.float64] | None, images: ImageFolder, filename: str
) -> npt.NDArray[np.float64] | FormatProblem:
    """Returns the pixels in a unit, (x, y)."""
    if unit == "pixel":
        return np.ones(2)
    if unit not in _PER_INCH:
        return FormatProblem(None, f"MeasurementUnit {unit[:40]!r}", "pixel, mm10 or inch1200")
    needs = "pixels, the size of the page in this unit, or an image file that states its resolution"
    size = images.size_of(filename)
    if size is not None and page is not None:
        scale = np.array([size[1], size[0]]) / page
        if abs(scale[0] / scale[1] - 1) <= _SAME_SCALE:
            return scale
    resolution = _resolution(images.path / filename)
    if resolution is not None:
        return resolution / _PER_INCH[unit]
    return FormatProblem(None, f"coordinates in {unit}", needs)


def _resolution(image: Path) -> npt.NDArray[np.float64] | None:
    """Returns the pixels in an inch, (x, y), that an image file states; None if it states nothing."""
    try:
        with Image.open(image) as opened:
            resolution = np.array([float(value) for value in opened.info.get("dpi", (0, 0))])
    except (OSError, ValueError, TypeError, SyntaxError, Image.DecompressionBombError):
        return None
    return resolution if resolution.shape == (2,) and (resolution > 1).all() else None  # 1 stands for an unknown one


def _read_line(line: Element, key: str, scale: npt.NDArray[np.float64]) -> AnnotatedWord | FormatProblem:
    shape = line.find("Shape")
    try:
        if shape is None:
            left, top, width, height = (float(line.get(name, "")) for name in ("HPOS", "VPOS", "WIDTH", "HEIGHT"))
            right, bottom = left + width, top + height
            points = np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
        else:
            polygon = shape.find("Polygon")
            if polygon is None:
                found = f"a <Shape> of {' and '.join(f'<{child.tag}>' for child in shape) or 'nothing'}"
                return FormatProblem(key, found, "a <Polygon>")
            points = points_in(polygon.get("POINTS", ""))
    except ValueError:
        found = f"<TextLine {' '.join(f'{name}={value!r}' for name, value in line.items())}"[:80]
        return FormatProblem(key, found, 'HPOS, VPOS, WIDTH and HEIGHT, or a Polygon of "x,y x,y ..."; all numbers')
    text = " ".join(part.get("CONTENT", "") for part in line.iter("String"))
    return AnnotatedWord(key, points * scale, ignore=text == IGNORE_TEXT)


_PAGES = XmlPages("alto", "ALTO", _filename, _read_alto)
ALTO = AnnotationFormat("alto", "ALTO", "either", _PAGES.examine, _PAGES.images)
