from pathlib import Path

import numpy as np
import pytest

from ocr.datasets.formats.annotated import AnnotatedImage
from ocr.datasets.formats.cvat import read_cvat
from ocr.datasets.formats.image_folder import ImageFolder
from ocr.errors import InputError

# In the words of CVAT's documentation, with its meta section shortened.
DOCUMENTED = """<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta><task><id>4</id><name>words</name><labels><label><name>text</name><attributes/></label></labels></task></meta>
  <image id="0" name="folder/a.jpg" width="640" height="480">
    <polygon label="text" source="manual" occluded="0" points="595.00,404.42;586.01,414.21;564.02,417.18" z_order="0">
      <attribute name="transcription">word</attribute>
    </polygon>
    <box label="text" occluded="0" source="manual" xtl="10" ytl="20" xbr="50" ybr="40" z_order="1"></box>
    <box label="text" occluded="1" xtl="10" ytl="20" xbr="50" ybr="40" rotation="90.0"></box>
    <tag label="receipt" source="manual"></tag>
  </image>
  <image id="1" name="b.jpg" width="10" height="20"/>
</annotations>"""


def read(tmp_path: Path, content: str) -> list[AnnotatedImage]:
    path = tmp_path / "annotations.xml"
    path.write_text(content, encoding="utf-8")
    return list(read_cvat(path, ImageFolder(tmp_path, (".jpg",))))


def read_shapes(tmp_path: Path, *shapes: str) -> AnnotatedImage:
    (image,) = read(tmp_path, f'<annotations><image name="a.jpg">{"".join(shapes)}</image></annotations>')
    return image


def test_the_documented_form(tmp_path: Path) -> None:
    first, second = read(tmp_path, DOCUMENTED)
    assert (first.filename, first.declared_size, first.problems) == ("folder/a.jpg", (480, 640), ())
    assert [word.ignore for word in first.words] == [False, False, True]
    np.testing.assert_array_equal(first.words[0].points, [[595, 404.42], [586.01, 414.21], [564.02, 417.18]])
    np.testing.assert_array_equal(first.words[1].points, [[10, 20], [50, 20], [50, 40], [10, 40]])
    # A quarter turn clockwise about (30, 30): the top left corner comes to the top right.
    np.testing.assert_allclose(first.words[2].points, [[40, 10], [40, 50], [20, 50], [20, 10]], atol=1e-12)
    assert (second.filename, second.words, second.declared_size) == ("b.jpg", (), (20, 10))


@pytest.mark.parametrize(
    ("attributes", "inside"),
    [
        ('occluded="1"', ""),
        ('label="ignore"', ""),
        ('label="Dont_Care"', ""),
        ('label="text"', '<attribute name="illegible">true</attribute>'),
        ('label="text"', '<attribute name="transcription">###</attribute>'),
    ],
)
def test_marks_of_dont_care_words(tmp_path: Path, attributes: str, inside: str) -> None:
    image = read_shapes(tmp_path, f'<box {attributes} xtl="1" ytl="2" xbr="30" ybr="40">{inside}</box>')
    assert [word.ignore for word in image.words] == [True]


def test_other_attributes_are_no_mark(tmp_path: Path) -> None:
    image = read_shapes(
        tmp_path,
        '<box label="text" occluded="0" xtl="1" ytl="2" xbr="30" ybr="40"><attribute name="illegible">false</attribute></box>',
    )
    assert [word.ignore for word in image.words] == [False]


@pytest.mark.parametrize(
    "shape",
    [
        '<mask label="text" rle="1, 2" left="1" top="1" width="3" height="1"/>',
        '<polyline points="1,2;3,4"/>',
        '<ellipse cx="1" cy="2" rx="3" ry="4"/>',
        '<polygon points="1,2;3"/>',
        '<polygon points="1,2;3,x;4,5"/>',
        "<polygon/>",
        '<box xtl="1" ytl="2" xbr="3"/>',
        '<box xtl="1" ytl="2" xbr="3" ybr="4" rotation="much"/>',
    ],
)
def test_a_shape_of_another_form_is_named_and_the_others_are_read(tmp_path: Path, shape: str) -> None:
    image = read_shapes(tmp_path, shape, '<box xtl="1" ytl="2" xbr="30" ybr="40"/>')
    assert [(problem.word, shape[1:4] in problem.found) for problem in image.problems] == [("1", True)]
    assert [word.key for word in image.words] == ["2"]


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ('<annotations><track id="0"/></annotations>', "CVAT for video"),
        ("<PcGts/>", "<PcGts>"),
        ("{}", "not a readable XML file"),
        ('<annotations><image name="a.jpg">', "no element found"),
    ],
)
def test_a_file_that_is_no_cvat_for_images_is_one_line(tmp_path: Path, content: str, found: str) -> None:
    with pytest.raises(InputError, match=found) as error:
        read(tmp_path, content)
    assert "CVAT for images 1.1" in str(error.value)
    assert "\n" not in str(error.value)


def test_an_image_without_name_or_with_a_wrong_size_is_named(tmp_path: Path) -> None:
    first, second = read(tmp_path, '<annotations><image/><image name="b.jpg" width="wide"/></annotations>')
    assert [problem.found for problem in first.problems] == ["an <image> without name"]
    assert [problem.found for problem in second.problems] == ["width = 'wide'"]


def test_images_come_one_after_the_other(tmp_path: Path) -> None:
    path = tmp_path / "annotations.xml"
    path.write_text("<annotations>" + '<image name="a.jpg"/>' * 9000 + "<damage", encoding="utf-8")
    assert (
        next(read_cvat(path, ImageFolder(tmp_path, (".jpg",)))).filename == "a.jpg"
    )  # the damage at the end is not met yet
