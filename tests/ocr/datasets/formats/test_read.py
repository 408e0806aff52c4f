import json
from pathlib import Path

import pytest

from ocr.datasets.formats.image_folder import ImageFolder
from ocr.datasets.formats.look import look_at
from ocr.datasets.formats.read import FORMATS, find_format, format_named, read_annotations
from ocr.errors import InputError

UPSTAGE = {"images": {"a.jpg": {"words": {"1": {"points": [[0, 0], [9, 0], [9, 9]]}}}}}
QUAD = "0,0,9,0,9,9,0,9,text\n"


def test_formats_have_distinct_names() -> None:
    assert len({candidate.name for candidate in FORMATS}) == len(FORMATS)
    assert [format_named(candidate.name) for candidate in FORMATS] == list(FORMATS)


def test_a_look_finds_the_format_and_says_how_sure_it_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a.json").write_text(json.dumps(UPSTAGE))
    caplog.set_level("INFO")
    (image,) = read_annotations(tmp_path / "a.json", ImageFolder(tmp_path, (".jpg",)))
    assert image.filename == "a.jpg"
    assert 'a.json: read as Upstage JSON (certain: an object "images" by file name, with "words")' in caplog.text


def test_a_wrong_format_is_named_with_the_one_that_reads_it(tmp_path: Path) -> None:
    (tmp_path / "gt_a.txt").write_text(QUAD)
    with pytest.raises(InputError, match=r"not Upstage JSON: this looks like ICDAR .* which data=icdar"):
        read_annotations(tmp_path, ImageFolder(tmp_path, (".jpg",)), "upstage")


def test_an_unknown_format_name_is_answered_with_all_names(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match="annotation_format=icadr: there is no such format; expected auto or one of up"
    ):
        read_annotations(tmp_path, ImageFolder(tmp_path, (".jpg",)), "icadr")


def test_a_file_that_no_reader_knows_is_described(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("hello")
    with pytest.raises(InputError, match=r"a\.json: found a file that begins with 'hello', which no reader knows"):
        find_format(look_at(tmp_path / "a.json"))


XML = {
    "cvat": ("annotations.xml", "<annotations><version>1.1</version></annotations>"),
    "page_xml": ("page/a.xml", '<PcGts xmlns="http://schema.primaresearch.org/PAGE/gts/pagecontent/2019-07-15"/>'),
    "alto": (
        "alto/a.xml",
        '<?xml version="1.0" encoding="UTF-8"?><alto xmlns="http://www.loc.gov/standards/alto/ns-v4#"/>',
    ),
    "ctw1500_xml": ("gt/0001.xml", '<Annotations><image file="0001.jpg"/></Annotations>'),
    "totaltext_mat": ("gt/poly_gt_img1.mat", "MATLAB 5.0 MAT-file"),
}


@pytest.mark.parametrize("name", XML)
def test_xml_and_mat_files_are_found_by_looking(tmp_path: Path, name: str) -> None:
    file, content = XML[name]
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(content)
    found, _ = find_format(look_at((tmp_path / file).parent if "/" in file else tmp_path / file))
    assert found.name == name


def test_page_xml_given_as_alto_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text("<PcGts/>")
    with pytest.raises(InputError, match=r"not ALTO: this looks like PAGE-XML \(XML of <PcGts>\), which data=page_xml"):
        read_annotations(tmp_path, ImageFolder(tmp_path, (".jpg",)), "alto")
