"""Damaged and foreign index files are refused."""

from pathlib import Path

import numpy as np
import pytest

from ocr.datasets.column_file import map_columns, write_columns
from ocr.datasets.shards.images import load_shards
from ocr.errors import InputError

REFUSED = r"index\.columns: not an index of shards that this version reads: "


def rewrite(path: Path, values=None, **columns) -> None:
    """Writes an index with other values or columns; a function changes a copy of the column."""
    old = map_columns(path)
    changed = {name: array.copy() for name, array in old.columns.items()}
    for name, change in columns.items():
        changed[name] = change(changed[name])
    write_columns(path, old.values | (values or {}), {name: [array] for name, array in changed.items()})


def setting(row: int, value):
    """Returns a function that changes one row of an array."""

    def change(array):
        array[row] = value
        return array

    return change


def load(path: Path) -> None:
    load_shards(str(path.parent))


@pytest.fixture
def index(copied_receipts) -> Path:
    return copied_receipts / "shards/train/index.columns"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"version": 3}, "version: Input should be 2"),
        ({"shards": []}, "image 0: lies outside the shards"),
        ({"num_listed": 2**63}, "num_listed: Input should be less than or equal to"),
        ({"extra": 1}, "extra: Extra inputs are not permitted"),
        ({"\x1b[31m": 1}, r"\\x1b\[31m: Extra inputs"),
        *(
            ({"shards": [{"name": name, "num_bytes": 10**9}]}, r"shards\.0\.name: .*found .*; expected ")
            for name in ("../train-000000.tar", "/train-000000.tar", "", "a\0.tar")
        ),
    ],
)
def test_an_index_of_another_kind_is_refused(values, said, index):
    rewrite(index, values)
    with pytest.raises(InputError, match=REFUSED + said) as caught:
        load(index)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"ends": setting(2, 1000)}, "image 2: an impossible position"),
        ({"ends": setting(2, 10**12)}, "image 2: lies outside the shards"),
        ({"num_bytes": setting(2, 2**63 - 1)}, "image 2: the image ends behind"),
        ({"num_bytes": setting(2, -1)}, "image 2: an impossible position"),
        ({"offsets": setting(2, 0)}, "image 2: an impossible position"),
        ({"shard_numbers": setting(2, -1)}, "image 2: lies outside"),
        ({"shard_numbers": setting(2, 99)}, "image 2: lies outside"),
        ({"stored_sizes": setting(2, (0, 3))}, "image 2: a side of less"),
        ({"orientations": setting(2, 9)}, "image 2: an EXIF"),
        ({"sample_ids": setting(2, -1)}, "image 2: a negative"),
        ({"vertices": setting(2, np.nan)}, "vertices: a number that is not finite"),
        ({"vertex_starts": setting(2, -1)}, "vertex_starts: expected"),
        ({"polygon_starts": setting(-1, 10**6)}, "polygon_starts: expected"),
        ({"filename_starts": setting(-1, 10**6)}, "filename_starts: expected"),
        ({"ignore": lambda flags: flags[:-1]}, "polygon_starts: expected"),
        ({"sha256": lambda rows: rows[:-1]}, "sha256: 13 rows for 14 images"),
        ({"sha256": lambda rows: rows[:, :31]}, "the array sha256 with the shape"),
        ({"offsets": lambda rows: rows.astype(np.int32)}, "no array offsets of the type int64"),
        ({"filename_bytes": setting(0, ord("/"))}, "image 0: .*found an absolute path"),
        ({"filename_bytes": setting(3, 10)}, r"image 0: .*found the control character \\x0a"),
        ({"filename_bytes": setting(3, 255)}, "filename_bytes: not UTF-8"),
    ],
)
def test_an_index_with_an_impossible_image_is_refused(columns, said, index):
    rewrite(index, **columns)
    with pytest.raises(InputError, match=REFUSED + said) as caught:
        load(index)
    assert str(caught.value).isprintable()


def test_a_damaged_index_is_refused_in_a_folder_and_a_bucket(index, s3):
    content = index.read_bytes()
    middle = len(content) // 2
    for damaged in (b"", b"{}", content[:100], content[:-1], content[:200] + b"\xff\x00" + content[202:]):
        assert damaged != content, middle
        index.write_bytes(damaged)
        for url in (str(index.parent), "s3://copied/shards/train"):
            with pytest.raises(InputError, match=REFUSED):
                load_shards(url)


def test_an_index_of_an_older_version_is_named_with_what_to_do(index, s3):
    index.rename(index.with_name("index.json"))
    for url in (str(index.parent), "s3://copied/shards/train"):
        with pytest.raises(
            InputError, match=r"/index\.json: not an index of .*: an older version.*write the shards again"
        ):
            load_shards(url)


def test_the_annotations_of_a_folder_stay_in_the_mapped_file(index):
    """Mapped arrays take no memory per rank or worker, and no Python object per word."""
    polygons = load_shards(str(index.parent))[0].polygons
    for name, array in vars(polygons).items():
        assert not array.flags.owndata, name
