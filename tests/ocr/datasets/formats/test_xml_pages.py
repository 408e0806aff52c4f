"""PAGE-XML, ALTO and CTW1500's XML: one file for each image."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ocr.datasets.formats.alto import ALTO
from ocr.datasets.formats.annotated import AnnotatedImage
from ocr.datasets.formats.ctw1500_xml import CTW1500_XML
from ocr.datasets.formats.image_folder import ImageFolder
from ocr.datasets.formats.interface import AnnotationFormat
from ocr.datasets.formats.page_xml import PAGE_XML

PAGE = "http://schema.primaresearch.org/PAGE/gts/pagecontent/"
RECTANGLE = [[10, 20], [300, 20], [300, 60], [10, 60]]


def read(tmp_path: Path, reader: AnnotationFormat, content: str, name: str = "a.xml") -> AnnotatedImage:
    (tmp_path / name).write_text(content, encoding="utf-8")
    (image,) = reader.read(tmp_path, ImageFolder(tmp_path, (".jpg", ".png")))
    return image


def page_xml(lines: str, date: str = "2019-07-15", filename: str = "a.jpg") -> str:
    page = f'<Page imageFilename="{filename}" imageWidth="400" imageHeight="300">'
    return f'<PcGts xmlns="{PAGE}{date}">{page}<TextRegion id="r"><Coords points="0,0 9,0 9,9"/>{lines}</TextRegion></Page></PcGts>'


def alto(lines: str, unit: str = "pixel", version: int = 4, page: str = 'WIDTH="400" HEIGHT="300"') -> str:
    described = f"<Description><MeasurementUnit>{unit}</MeasurementUnit></Description>"
    block = f"<Layout><Page {page}><PrintSpace><TextBlock>{lines}</TextBlock></PrintSpace></Page></Layout>"
    return f'<alto xmlns="http://www.loc.gov/standards/alto/ns-v{version}#">{described}{block}</alto>'


@pytest.mark.parametrize(
    ("date", "coords"),
    [
        ("2019-07-15", '<Coords points="10,20 300,20 300,60 10,60"/>'),
        ("2013-07-15", '<Coords points="10,20 300,20 300,60 10,60"/>'),
        ("2010-03-19", "<Coords>" + "".join(f'<Point x="{x}" y="{y}"/>' for x, y in RECTANGLE) + "</Coords>"),
    ],
)
def test_lines_of_page_xml_by_schema(tmp_path: Path, date: str, coords: str) -> None:
    dont_care = "<TextEquiv><Unicode>###</Unicode></TextEquiv>"
    lines = (
        f'<TextLine id="l1">{coords}<Word id="w"><Coords points="1,1 2,2 3,3"/></Word></TextLine>'
        f'<TextLine id="l2">{coords}{dont_care}</TextLine>'
    )
    image = read(tmp_path, PAGE_XML, page_xml(lines, date))
    assert (image.source, image.declared_size, image.problems) == ("a.xml", (300, 400), ())
    assert [(word.key, word.ignore) for word in image.words] == [("l1", False), ("l2", True)]
    for word in image.words:
        np.testing.assert_array_equal(word.points, RECTANGLE)


@pytest.mark.parametrize(
    ("stated", "stored", "found"),
    [
        ("b.png", "b.png", "b.png"),
        ("C:\\scans\\b.png", "b.png", "b.png"),
        ("/somewhere/b.png", "b.png", "b.png"),
        ("b.tif", "a.jpg", "a.jpg"),
        ("", "a.png", "a.png"),
    ],
)
def test_the_image_is_the_one_that_the_file_names_or_that_of_its_stem(
    tmp_path: Path, stated: str, stored: str, found: str
) -> None:
    Image.new("L", (400, 300)).save(tmp_path / stored)
    assert read(tmp_path, PAGE_XML, page_xml("", filename=stated)).filename == found


def test_regions_without_lines_are_named(tmp_path: Path) -> None:
    image = read(tmp_path, PAGE_XML, page_xml(""))
    assert [problem.found for problem in image.problems] == ["1 text regions without a <TextLine>"]


@pytest.mark.parametrize("version", [2, 3, 4])
@pytest.mark.parametrize("points", ["10,20 300,20 300,60 10,60", "10 20 300 20 300 60 10 60"])
def test_lines_of_alto_by_version(tmp_path: Path, version: int, points: str) -> None:
    lines = (
        '<TextLine ID="l1" HPOS="10" VPOS="20" WIDTH="290" HEIGHT="40"><String CONTENT="a"/><SP/></TextLine>'
        f'<TextLine ID="l2" HPOS="0" VPOS="0" WIDTH="1" HEIGHT="1"><Shape><Polygon POINTS="{points}"/></Shape>'
        '<String CONTENT="###"/></TextLine>'
    )
    image = read(tmp_path, ALTO, alto(lines, version=version))
    assert (image.declared_size, image.problems) == ((300, 400), ())
    assert [(word.key, word.ignore) for word in image.words] == [("l1", False), ("l2", True)]
    for word in image.words:
        np.testing.assert_array_equal(word.points, RECTANGLE)


LINE = '<TextLine ID="l" HPOS="254" VPOS="508" WIDTH="254" HEIGHT="127"/>'


@pytest.mark.parametrize(("unit", "per_inch"), [("mm10", 254), ("inch1200", 1200)])
@pytest.mark.parametrize("is_by_page", [True, False])
def test_other_units_become_pixels_by_page_or_by_resolution(
    tmp_path: Path, unit: str, per_inch: int, is_by_page: bool
) -> None:
    if is_by_page:  # the scan was made smaller afterwards, and its resolution was not corrected
        Image.new("L", (400, 300)).save(tmp_path / "a.png", dpi=(600, 600))
        page, scale = f'WIDTH="{400 * per_inch / 100}" HEIGHT="{300 * per_inch / 100}"', 100 / per_inch
    else:
        Image.new("L", (400, 300)).save(tmp_path / "a.jpg", dpi=(200, 200))
        page, scale = "", 200 / per_inch
    (word,) = read(tmp_path, ALTO, alto(LINE, unit, page=page)).words
    expected = np.array([[254, 508], [508, 508], [508, 635], [254, 635]]) * scale
    np.testing.assert_allclose(word.points, expected, rtol=1e-4)


@pytest.mark.parametrize("unit", ["mm10", "inch1200", "furlong"])
def test_a_unit_without_resolution_or_an_unknown_unit_is_refused_by_name(tmp_path: Path, unit: str) -> None:
    Image.new("L", (400, 300)).save(tmp_path / "a.png")
    image = read(tmp_path, ALTO, alto(LINE, unit, page=""))
    assert image.words == ()
    assert unit in image.problems[0].found


def ctw1500(boxes: str) -> str:
    return f'<Annotations><image file="a.jpg">{boxes}</image></Annotations>'


def test_boxes_of_ctw1500(tmp_path: Path) -> None:
    corners = (
        "131,58,208,49,279,56,346,76,412,101,473,141,530,192,510,246,458,210,405,175,350,151,291,137,228,133,165,134"
    )
    box = f'<box height="197" left="131" top="49" width="399"><label>{{}}</label><segs>{corners}</segs><pts x="1" y="2"/></box>'
    image = read(tmp_path, CTW1500_XML, ctw1500(box.format("OLATHE") + box.format("###")))
    assert (image.filename, image.problems) == ("a.jpg", ())
    assert [(word.key, word.ignore) for word in image.words] == [("1", False), ("2", True)]
    np.testing.assert_array_equal(image.words[0].points.ravel(), [float(number) for number in corners.split(",")])


PROBLEMS = [
    (PAGE_XML, page_xml("<TextLine/>"), "without <Coords>"),
    (PAGE_XML, page_xml('<TextLine><Coords points="1,2 3"/></TextLine>'), "points = '1,2 3'"),
    (PAGE_XML, page_xml('<TextLine><Coords><Point x="1" y=""/></Coords></TextLine>'), "points = ''"),
    (PAGE_XML, "<PcGts/>", "no <Page>"),
    (PAGE_XML, "<alto/>", "<alto>"),
    (PAGE_XML, "<PcGts><Page>", "no readable XML: line 1"),
    (PAGE_XML, '<PcGts><Page imageWidth="wide"/></PcGts>', "imageWidth = 'wide'"),
    (ALTO, alto('<TextLine HPOS="1" VPOS="2" WIDTH="3"/>'), "HPOS='1'"),
    (ALTO, alto("<TextLine><Shape><Ellipse/></Shape></TextLine>"), "<Ellipse>"),
    (ALTO, alto('<TextLine><Shape><Polygon POINTS="1,2 3,b"/></Shape></TextLine>'), "<TextLine"),
    (ALTO, "<alto/>", "0 pages"),
    (ALTO, "[]", "no readable XML"),
    (CTW1500_XML, ctw1500("<box/>"), "segs = ''"),
    (CTW1500_XML, ctw1500("<box><segs>1,2,3</segs></box>"), "segs = '1,2,3'"),
    (CTW1500_XML, "<Annotations/>", "0 images"),
    (CTW1500_XML, "<annotations/>", "<annotations>"),
]


@pytest.mark.parametrize(("reader", "content", "found"), PROBLEMS)
def test_a_malformed_form_is_a_problem_of_its_image(
    tmp_path: Path, reader: AnnotationFormat, content: str, found: str
) -> None:
    image = read(tmp_path, reader, content)
    assert image.filename == "a.jpg"
    assert any(found in problem.found for problem in image.problems)


def test_lines_with_equal_or_without_ids_have_keys_of_their_own(tmp_path: Path) -> None:
    coords = '<Coords points="1,2 3,4 5,7"/>'
    lines = "".join(f"<TextLine{attribute}>{coords}</TextLine>" for attribute in (' id="l"', ' id="l"', "", ' id="m"'))
    image = read(tmp_path, PAGE_XML, page_xml(lines))
    assert [word.key for word in image.words] == ["l#1", "l#2", "#3", "m"]


def test_two_images_of_one_stem_are_named(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.png"):
        Image.new("L", (400, 300)).save(tmp_path / name)
    image = read(tmp_path, ALTO, alto(LINE))
    assert [problem.found for problem in image.problems] == ["images a.jpg and a.png"]


@pytest.mark.parametrize("reader", [PAGE_XML, ALTO, CTW1500_XML])
def test_a_folder_without_xml_files_is_named(tmp_path: Path, reader: AnnotationFormat) -> None:
    with pytest.raises(FileNotFoundError, match=r"found no \.xml file"):
        list(reader.read(tmp_path, ImageFolder(tmp_path, (".jpg",))))


@pytest.mark.parametrize(
    ("file", "image"), [("0001.xml", "0001.jpg"), ("0001001.xml", "1001.jpg"), ("0002.xml", "0002.jpg")]
)
def test_the_test_files_of_ctw1500_have_three_zeros_in_front(tmp_path: Path, file: str, image: str) -> None:
    for name in ("0001.jpg", "1001.jpg"):
        Image.new("L", (400, 300)).save(tmp_path / name)
    assert read(tmp_path, CTW1500_XML, "<Annotations><image/></Annotations>", file).filename == image
