from pathlib import Path

import pytest

from ocr.datasets.formats.safe_xml import XmlProblem, elements, root_name, root_of_beginning

BOMB = """<?xml version="1.0"?><!DOCTYPE a [<!ENTITY x "ha"><!ENTITY y "&x;&x;&x;&x;&x;&x;&x;&x;">
<!ENTITY z "&y;&y;&y;&y;&y;&y;&y;&y;">]><annotations><image name="&z;"/></annotations>"""
OUTSIDE = """<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotations><image>&x;</image></annotations>"""
PARAMETER = """<!DOCTYPE a [<!ENTITY % x SYSTEM "http://localhost/x.dtd"> %x;]><annotations/>"""


def write(tmp_path: Path, content: str | bytes) -> Path:
    path = tmp_path / "a.xml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("content", [BOMB, OUTSIDE, PARAMETER])
def test_a_declared_entity_is_refused_before_it_is_used(tmp_path: Path, content: str) -> None:
    with pytest.raises(XmlProblem, match=r"^line \d: a declaration of the entity '[xyz]'"):
        list(elements(write(tmp_path, content), ("image",)))


def test_an_undeclared_entity_of_a_document_type_outside_is_not_looked_up(tmp_path: Path) -> None:
    path = write(tmp_path, '<!DOCTYPE a SYSTEM "file:///etc/passwd"><a><image>b</image></a>')
    assert [element.text for element in elements(path, ("image",))] == ["b"]


def test_elements_come_with_their_content_and_without_namespaces(tmp_path: Path) -> None:
    path = write(
        tmp_path, '<p:a xmlns:p="urn:x"><p:b p:c="1">x<p:d/>y<!-- no --><p:b/>z</p:b>w<b xmlns="urn:y">&lt;</b></p:a>'
    )
    first, second = elements(path, ("b",))
    assert (first.attrib, first.text, [child.tag for child in first]) == ({"c": "1"}, "x", ["d", "b"])
    assert ([child.tail for child in first], second.text) == (["y", "z"], "<")
    assert root_name(path) == "a"


def test_a_long_text_in_many_pieces_is_whole(tmp_path: Path) -> None:
    path = write(tmp_path, "<a><b>" + "x&amp;" * 50_000 + "<!-- no -->y</b></a>")
    (element,) = elements(path, ("b",))
    assert element.text == "x&" * 50_000 + "y"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "iso-8859-1"])
def test_encodings(tmp_path: Path, encoding: str) -> None:
    declared = "" if encoding.startswith("utf-8") else f' encoding="{encoding}"'
    path = write(tmp_path, f'<?xml version="1.0"{declared}?><a><b c="é"/></a>'.encode(encoding))
    assert [element.get("c") for element in elements(path, ("b",))] == ["é"]


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("", "no element found"),
        ("<a><b></a>", "mismatched tag"),
        ("<a><b/>", "no element found"),
        ("plain text", "syntax error"),
        (b"\x00\x01\x02", "not well-formed"),
        ('<?xml version="1.0" encoding="no-such"?><a/>', "unknown encoding"),
        ("<a>" * 300, "more than 200 elements inside each other"),
        (b"<a>\xff</a>", "not well-formed"),
    ],
)
def test_damaged_files_are_one_problem_with_its_line(tmp_path: Path, content: str | bytes, found: str) -> None:
    with pytest.raises(XmlProblem, match=found):
        list(elements(write(tmp_path, content), ("b",)))


@pytest.mark.parametrize(
    ("text", "root"),
    [
        ('<?xml version="1.0" encoding="utf-16"?><!-- x --><p:a xmlns:p="u"><b', "a"),
        (BOMB, None),
        ("<a", None),
        ("", None),
        ('{"a": 1}', None),
    ],
)
def test_the_beginning_of_a_text_tells_its_outermost_element(text: str, root: str | None) -> None:
    assert root_of_beginning(text) == root
