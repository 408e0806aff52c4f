"""Reads PAGE-XML: one file for each image, one polygon for each line of text.

    <PcGts xmlns="http://schema.primaresearch.org/PAGE/gts/pagecontent/2019-07-15">
      <Page imageFilename="a.jpg" imageWidth="1000" imageHeight="1400">
        <TextRegion id="r1"><Coords points="..."/>
          <TextLine id="l1"><Coords points="10,20 300,20 300,60 10,60"/> ...

Source: PRImA-Research-Lab/PAGE-XML, the schemas `pagecontent` of 2009-03-16 to 2019-07-15 and their change logs. Until 2010 the
points are elements, <Point x="10" y="20"/>; since 2013-07-15 they are one attribute. Lines are read, not regions, which are
paragraphs or columns. A line with the text ### is don't-care.
"""

from xml.etree.ElementTree import Element

import numpy as np

from ocr.datasets.formats.annotated import AnnotatedWord, FormatProblem
from ocr.datasets.formats.interface import AnnotationFormat
from ocr.datasets.formats.safe_xml import child_text, stated_size
from ocr.datasets.formats.xml_pages import IGNORE_TEXT, PageContent, XmlPages, points_in, unique_keys


def _filename(root: Element) -> str:
    page = root.find("Page")
    return "" if page is None else page.get("imageFilename", "")


def _read_page(root: Element, *_: object) -> PageContent:
    page = root.find("Page")
    if page is None:
        return PageContent([FormatProblem(None, "no <Page>", "a PAGE-XML file with a <Page>")])
    size, problems = stated_size(page, "imageHeight", "imageWidth")
    lines = list(page.iter("TextLine"))
    num_regions = sum(1 for _ in page.iter("TextRegion"))
    if num_regions and not lines:
        problems.append(FormatProblem(None, f"{num_regions} text regions without a <TextLine>", "lines of text"))
    keys = unique_keys([line.get("id", "") for line in lines])
    words = [_read_line(line, key) for line, key in zip(lines, keys, strict=True)]
    return PageContent([*problems, *words], size)


def _read_line(line: Element, key: str) -> AnnotatedWord | FormatProblem:
    coords = line.find("Coords")
    if coords is None:
        return FormatProblem(key, "a <TextLine> without <Coords>", "the polygon of the line")
    try:
        if "points" in coords.attrib:
            points = points_in(coords.get("points", ""))
        else:
            corners = [(point.get("x", ""), point.get("y", "")) for point in coords.iter("Point")]
            points = np.array([[float(x), float(y)] for x, y in corners]).reshape(-1, 2)
    except ValueError:
        return FormatProblem(key, f"points = {coords.get('points', '')[:60]!r}", '"x,y x,y ..." in numbers')
    text = line.find("TextEquiv")
    return AnnotatedWord(key, points, ignore=text is not None and child_text(text, "Unicode") == IGNORE_TEXT)


_PAGES = XmlPages("PcGts", "PAGE-XML", _filename, _read_page)
PAGE_XML = AnnotationFormat("page_xml", "PAGE-XML", "either", _PAGES.examine, _PAGES.images)
