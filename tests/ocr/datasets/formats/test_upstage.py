import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ocr.datasets.audit import load_manifest
from ocr.datasets.formats.upstage import read_upstage, upstage_document
from ocr.datasets.schemas import DatasetConfig
from ocr.errors import InputError

SQUARE = [[0, 0], [10, 0], [10, 10], [0, 10.5]]


def written(tmp_path: Path, document: Any) -> Path:
    path = tmp_path / "train.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document), encoding="utf-8")
    return path


def test_images_words_points_and_flags_are_read_in_order(tmp_path: Path) -> None:
    words = {
        "0002": {"points": SQUARE, "transcription": "text", "illegibility": False},
        "0001": {"points": SQUARE[:3], "illegibility": True},
        "0003": {"points": SQUARE, "ignore": True, "illegibility": None},
    }
    images = {"b.jpg": {"img_w": 20, "img_h": 30, "words": words, "other": [1]}, "a.jpg": {}, "c.jpg": {"words": None}}
    first, second, third = read_upstage(written(tmp_path, {"images": images, "metadata": 1}))

    assert (first.filename, first.source, first.declared_size) == ("b.jpg", "train.json", (30, 20))
    assert [word.key for word in first.words] == ["0002", "0001", "0003"]
    assert [word.ignore for word in first.words] == [False, True, True]
    np.testing.assert_array_equal(first.words[0].points, SQUARE)
    assert first.words[0].points.dtype == np.float64
    assert (second.filename, second.words, second.declared_size, second.problems) == ("a.jpg", (), (None, None), ())
    assert third.words == ()


def test_no_images_give_an_empty_list(tmp_path: Path) -> None:
    assert list(read_upstage(written(tmp_path, {"images": {}}))) == []


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    assert len(list(read_upstage(written(tmp_path, '\ufeff{"images": {"a.jpg": {}}}')))) == 1


def test_repeated_keys_are_reported(tmp_path: Path) -> None:
    word = json.dumps({"points": SQUARE})
    text = f'{{"images": {{"a.jpg": {{"words": {{"0001": {word}, "0001": {word}, "0002": {word}}}}}, "a.jpg": {{}}}}}}'
    first, second = read_upstage(written(tmp_path, text))
    assert (first.filename, second.filename) == ("a.jpg", "a.jpg")
    assert [word.key for word in first.words] == ["0002"]
    assert [(part.word, part.found) for part in first.problems] == [("0001", "the word's key twice")]


@pytest.mark.parametrize(
    ("entry", "word", "found"),
    [
        ([], None, "[]"),
        ({"words": [{"points": SQUARE}]}, None, 'words = [{"points": [[0, 0], [10, 0], [10, 10], [0, 10.5]]}]'),
        ({"words": {"0001": SQUARE}}, "0001", "[[0, 0], [10, 0], [10, 10], [0, 10.5]]"),
        ({"words": {"0001": {}}}, "0001", "points = null"),
        ({"words": {"0001": {"points": "0,0,1,1"}}}, "0001", 'points = "0,0,1,1"'),
        ({"words": {"0001": {"points": [0, 0, 1, 1, 2, 2]}}}, "0001", "points = [0, 0, 1, 1, 2, 2]"),
        ({"words": {"0001": {"points": [["0", "0"]]}}}, "0001", 'points = [["0", "0"]]'),
        ({"words": {"0001": {"points": [[True, 0]]}}}, "0001", "points = [[true, 0]]"),
        ({"words": {"0001": {"points": [[0, 0, 0]]}}}, "0001", "points = [[0, 0, 0]]"),
        ({"words": {"0001": {"points": SQUARE, "ignore": "no"}}}, "0001", 'ignore = "no"'),
        ({"words": {"0001": {"points": SQUARE, "illegibility": 1}}}, "0001", "illegibility = 1"),
        ({"img_w": "20"}, None, 'img_w = "20"'),
        ({"words": {"0001": {"points": [[10**400, 0]]}}}, "0001", "points = [[1000000"),
    ],
)
def test_odd_shapes_are_problems_of_their_word_or_image(
    tmp_path: Path, entry: Any, word: str | None, found: str
) -> None:
    bad, good = read_upstage(written(tmp_path, {"images": {"a.jpg": entry, "b.jpg": {"words": {}}}}))
    assert [part.word for part in bad.problems] == [word]
    assert bad.problems[0].found.startswith(found)
    assert bad.words == ()
    assert good.problems == ()


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ('{"images": {', r"train\.json: not a JSON file in UTF-8: .*line 1"),
        ('{"images": {"a.jpg": {"words": {}},,,,}}', r"train\.json: not a JSON file in UTF-8: .*column 36"),
        ([], r'train\.json: found \[\]; expected \{"images"'),
        ({"image": {}}, r'train\.json: found keys \["image"\]; expected'),
        ({"images": []}, r"train\.json: found images = \[\]; expected"),
        ('{"images": {}, "images": {}}', r'train\.json: found the key "images" twice; expected once'),
        ("[" * 100_000, r"train\.json: found brackets nested too deep to read; expected a whole JSON file"),
        ('{"images": ' + "9" * 5000, r"train\.json: not a JSON file in UTF-8: .*digits"),
    ],
)
def test_a_file_of_another_form_is_refused_by_name(tmp_path: Path, document: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        list(read_upstage(written(tmp_path, document)))


def test_other_bytes_than_utf_8_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "train.json").write_bytes(b'{"images": {"\xff.jpg": {}}}')
    with pytest.raises(InputError, match=r"train\.json: not a JSON file in UTF-8: .*0xff in position 13"):
        list(read_upstage(tmp_path / "train.json"))


def test_a_key_repeated_many_times_is_counted_in_one_pass(tmp_path: Path) -> None:
    word = json.dumps({"points": SQUARE})
    words = ", ".join([f'"same": {word}'] * 20_000 + [f'"other": {word}'])
    (image,) = read_upstage(written(tmp_path, '{"images": {"a.jpg": {"words": {' + words + "}}}}"))
    assert [part.word for part in image.problems] == ["same"]
    assert [word.key for word in image.words] == ["other"]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"val\.json: there is no such annotation file"):
        read_upstage(tmp_path / "val.json")


def test_the_real_receipts_are_read_whole(sroie: Path) -> None:
    images = list(read_upstage(sroie / "jsons" / "train.json"))
    assert len(images) == 160
    assert sum(len(image.words) for image in images) == 9110
    assert not any(image.problems for image in images)


def test_coordinates_are_written_to_the_last_digit_of_float32(drawn: Path) -> None:
    config = DatasetConfig(image_path=str(drawn / "images/val"), annotation_path=str(drawn / "jsons/val.json"))
    manifest = load_manifest(config, max_megapixels=100)[0]
    index = int(np.argmax([len(manifest.polygons.polygons_of(index)) for index in range(len(manifest))]))
    words = upstage_document(manifest, [index], canonical=True)["images"][manifest.filenames[index]]["words"]
    found = np.concatenate([np.array(word["points"]) for word in words.values()])
    np.testing.assert_array_equal(found.astype(np.float32), np.concatenate(manifest.polygons.polygons_of(index)))
    assert upstage_document(manifest, [], canonical=False) == {"images": {}}
