"""Damaged and foreign index files are refused."""

import json

import pytest

from ocr.datasets.shards.images import load_shards
from ocr.errors import InputError


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": 2}, "version: Input should be 1"),
        ({"shards": []}, "lies outside the shards"),
        ({"num_listed": 2**63}, "num_listed: Input should be less than or equal to"),
        ({"extra": 1}, "extra: Extra inputs are not permitted"),
    ],
)
def test_an_index_of_another_kind_is_refused(change, said, copied_receipts):
    path = copied_receipts / "shards/train/index.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps(document | change))
    with pytest.raises(InputError, match=f"index.json: not an index of shards that this version reads: .*{said}"):
        load_shards(str(path.parent))
    path.write_text(path.read_text()[:100])
    with pytest.raises(InputError, match=r"index\.json: not an index of shards.*Invalid JSON"):
        load_shards(str(path.parent))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"end": 1000}, "the image ends at"),
        ({"stored_size": [0, 3]}, "stored_size.0: Input should be greater than or equal to 1"),
        ({"stored_size": [2**31, 3]}, "stored_size.0: Input should be less than or equal to"),
        ({"place": 2**63}, "place: Input should be less than or equal to"),
        ({"place": 10**4000}, "place: "),
        ({"polygons": [[0, 0, 1, 0, float("nan"), 1]], "ignore": [False]}, "finite number"),
        ({"polygons": [[0, 0, 1, 0, 1e39, 1]], "ignore": [False]}, "less than or equal to"),
        ({"ignore": [True] * 1000}, "1000 flags"),
        ({"filename": "/etc/a.jpg"}, "filename: .*found an absolute path"),
        ({"filename": "../a.jpg"}, "filename: .*leads out of its folder"),
        ({"filename": "a\n\x1b[31m.jpg"}, r"filename: .*'a\\n\\x1b\[31m.jpg': found the control character \\x0a"),
        ({"\x1b[31m": 1}, r"\\x1b\[31m: Extra inputs"),
    ],
)
def test_an_index_with_an_impossible_image_is_refused(change, said, copied_receipts):
    path = copied_receipts / "shards/train/index.json"
    document = json.loads(path.read_text())
    document["images"][2] |= change
    path.write_text(json.dumps(document))
    with pytest.raises(InputError, match=f"index.json: not an index of shards .*: images.2.*{said}"):
        load_shards(str(path.parent))


@pytest.mark.parametrize("name", ["../train-000000.tar", "/train-000000.tar", "", "a\0.tar"])
def test_an_index_whose_shard_lies_elsewhere_is_refused(name, copied_receipts):
    path = copied_receipts / "shards/train/index.json"
    document = json.loads(path.read_text())
    document["shards"][0]["name"] = name
    path.write_text(json.dumps(document))
    with pytest.raises(InputError, match=r"shards\.0\.name: .*found .*; expected ") as caught:
        load_shards(str(path.parent))
    assert str(caught.value).isprintable()
