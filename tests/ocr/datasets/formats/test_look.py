import json
from pathlib import Path

import pytest

from ocr.datasets.formats.look import look_at, parse_beginning

DOCUMENT = {"a": [1, {"b": 'x,y}]"\\'}], "c": {"d": [2.5, None]}, "e": "한글"}


@pytest.mark.parametrize("length", range(2, len(json.dumps(DOCUMENT))))
def test_the_beginning_of_json_is_read_wherever_it_is_cut(length: int) -> None:
    text = json.dumps(DOCUMENT)
    value = parse_beginning(text[:length])
    assert isinstance(value, dict)
    assert list(value) == list(DOCUMENT)[: len(value)]


def test_what_is_whole_is_kept() -> None:
    assert parse_beginning('{"images": {"a.jpg": {"words": {"1": {"points": [[1, 2], [3') == {
        "images": {"a.jpg": {"words": {"1": {"points": [[1, 2], []]}}}}
    }


@pytest.mark.parametrize("text", ["", "1,2,3", "]", "[}", "<a>", '{"a" 1, ', "[" * 100_000])
def test_other_text_is_no_json(text: str) -> None:
    assert parse_beginning(text) is None


def test_a_missing_annotation_file_is_told_from_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"train\.json: there is no such annotation file or folder$"):
        look_at(tmp_path / "train.json")
    with pytest.raises(FileNotFoundError, match=rf"folder, since {tmp_path}/none does not exist$"):
        look_at(tmp_path / "none/jsons/train.json")
