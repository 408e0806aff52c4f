import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from ocr.datasets.formats import json_text
from ocr.datasets.formats.json_text import BrokenJson, JsonText

DOCUMENT = {
    "info": {"year": 2026, "note": 'a "quoted" \\ text, \u2028 é 영수증 \U0001f600'},
    "images": [{"id": 12345, "w": -1.25e-3}, 123456789, None, True, [], {}, "text", float("inf")],
    "empty": [],
    "nothing": {},
    "data": "x" * 300 + '\\"' * 7,
    "last": -123.456,
}


def tree(text: JsonText) -> Any:
    """Reads the next value member by member and element by element."""
    mark = text.next_mark()
    if mark == "{":
        return {key: tree(text) for key in text.members()}
    if mark == "[":
        return [tree(text) for _ in text.elements()]
    return text.value()


def whole(path: Path) -> Any:
    with JsonText(path) as text:
        value = text.value()
        text.end()
    return value


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64, 2**20])
@pytest.mark.parametrize("indent", [None, 1])
def test_values_are_those_of_the_json_module_at_any_chunk_size(
    chunk: int, indent: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_text, "CHUNK", chunk)
    path = tmp_path / "a.json"
    path.write_text(json.dumps(DOCUMENT, ensure_ascii=indent is None, indent=indent), encoding="utf-8")
    with JsonText(path) as text:
        assert tree(text) == DOCUMENT
        text.end()
    assert whole(path) == DOCUMENT


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 2**20])
def test_skipped_values_of_all_kinds_are_passed(chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_text, "CHUNK", chunk)
    path = tmp_path / "a.json"
    path.write_text(json.dumps(DOCUMENT), encoding="utf-8")
    keys = []
    with JsonText(path) as text:
        for key in text.members():
            keys.append(key)
            if key == "last":
                assert text.value() == -123.456
            else:
                text.skip()
        text.end()
    assert keys == list(DOCUMENT)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_encodings_of_windows_editors_are_read(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes('{"영": 1}'.encode(encoding))
    assert whole(tmp_path / "a.json") == {"영": 1}


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "Expecting value in an empty file"),
        (b"  ", "Expecting value at character 2"),
        (b'{"a": [1, 2', "Expecting ',' delimiter"),
        (b'{"a": "cut', "Unterminated string"),
        (b'{"a": 1]', "Expecting ',' delimiter at character 7"),
        (b"{'a': 1}", "Expecting property name enclosed in double quotes at character 1, near"),
        (b'{"a": 1} {"b": 2}', "text after the end of the JSON value at character 9"),
        (b"[" * 100_000, "brackets nested too deep to read"),
        (b"[" + b"9" * 5000 + b"]", "limit (4300 digits)"),
        (b'{"a": "\xff"}', "invalid start byte"),
        (b'{"a": "\\ud800 \\x"}', "Invalid \\\\escape"),
    ],
)
def test_a_file_that_is_not_json_is_named_with_the_place(content: bytes, found: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(BrokenJson) as caught:
        whole(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: not JSON: ")
    assert found.replace("\\\\", "\\") in message
    assert message.endswith("; expected a whole JSON file in UTF-8; write or copy it again")
    assert "\n" not in message


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ('{"a": [1, 2}', "`,` or `]` is missing at character 11"),
        ('{"a": [1, 2]', "`,` or `}` is missing"),
        ('{"a" [1, 2]}', "`:` is missing at character 5"),
        ('{"a": [1, 2],}', "a key in double quotes is missing at character 13"),
        ('{"a": [1, ]}', "Expecting value at character 10"),
        ('{"a": [', "Expecting value"),
        ('{"a"', "`:` is missing"),
        ('["a"', "`,` or `]` is missing"),
    ],
)
def test_a_fault_between_values_is_named_with_the_place(content: str, found: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(BrokenJson) as caught, JsonText(tmp_path / "a.json") as text:
        tree(text)
    assert found in str(caught.value)


def test_a_skipped_string_without_an_end_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('"' + "A" * 3_000_000 + "\\")
    with (
        pytest.raises(BrokenJson, match="a string without an end at character 3,000,001"),
        JsonText(tmp_path / "a.json") as text,
    ):
        text.skip()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no such annotation file"):
        JsonText(tmp_path / "a.json")


def test_memory_does_not_grow_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_text, "CHUNK", 2**14)
    peaks = []
    for num_elements in (500, 5000):
        path = tmp_path / f"{num_elements}.json"
        path.write_text(
            json.dumps({"list": [{"points": list(range(50))}] * num_elements, "skipped": "x" * num_elements})
        )
        tracemalloc.start()
        with JsonText(path) as text:
            for key in text.members():
                if key == "list":
                    for _ in text.elements():
                        text.value()
                else:
                    text.skip()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]
