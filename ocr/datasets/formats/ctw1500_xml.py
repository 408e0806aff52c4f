"""Reads the XML form of CTW1500: one file for each image, one polygon for each line of text.

    <Annotations><image file="0200.jpg">
      <box left="131" top="49" width="399" height="197">
        <label>OLATHE</label><segs>131,58,208,49,...,165,134</segs><pts x="183" y="95"/> ...

Source: Yuliang-Liu/Curve-Text-Detector, data/README.md, "Annotations-v2" of 2020. `segs` holds the corners of the polygon, mostly
14, in pixels of the image; `pts` are centres of letters, which are not read. The label ### marks a don't-care region.
"""

from xml.etree.ElementTree import Element

from ocr.datasets.formats.annotated import AnnotatedWord, FormatProblem
from ocr.datasets.formats.interface import AnnotationFormat
from ocr.datasets.formats.safe_xml import child_text
from ocr.datasets.formats.xml_pages import IGNORE_TEXT, PageContent, XmlPages, points_in


def _filename(root: Element) -> str:
    image = root.find("image")
    return "" if image is None else image.get("file", "")


def _read_boxes(root: Element, *_: object) -> PageContent:
    images = root.findall("image")
    if len(images) != 1:
        return PageContent([FormatProblem(None, f"{len(images)} images", "one <image> in each file")])
    return PageContent([_read_box(box, str(number)) for number, box in enumerate(images[0].iter("box"), 1)])


def _read_box(box: Element, key: str) -> AnnotatedWord | FormatProblem:
    corners = child_text(box, "segs")
    try:
        points = points_in(corners)
    except ValueError:
        points = points_in("")
    if not len(points):
        return FormatProblem(key, f"segs = {corners[:60]!r}", "the corners x1,y1,x2,y2,... in numbers")
    return AnnotatedWord(key, points, ignore=child_text(box, "label") == IGNORE_TEXT)


_PAGES = XmlPages("Annotations", "CTW1500 XML", _filename, _read_boxes)
CTW1500_XML = AnnotationFormat("ctw1500_xml", "CTW1500 XML", "folder", _PAGES.examine, _PAGES.images)
