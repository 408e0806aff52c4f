"""Letters are counted by script in every kind of annotation file."""

import pytest

from ocr.inspection.letters import letters_by_script


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", '{"w": {"points": [[1, 2]], "transcription": "ab\\uac00"}}'),
        ("a.txt", "1,2,3,4,5,6,7,8,ab가\n"),
        ("a.xml", "<Unicode>ab가</Unicode>"),
        ("alto.xml", '<String CONTENT="ab가"/>'),
        ("label.txt", 'a.jpg\t[{"transcription": "ab가", "points": [[1, 2]]}]'),
    ],
)
def test_letters_of_each_format_are_counted(name, content, tmp_path):
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    assert letters_by_script(str(path)) == {"Latin": 2, "Hangul": 1}
    assert letters_by_script(str(tmp_path)) == {"Latin": 2, "Hangul": 1}


def test_without_transcriptions_there_are_none(tmp_path):
    assert letters_by_script(None) == {}
    assert letters_by_script(str(tmp_path / "none.mat")) == {}
