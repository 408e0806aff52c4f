from pathlib import Path

import numpy as np
import pytest

from ocr.datasets.column_file import ColumnFileError, map_columns, write_columns

PAIR = np.dtype([("number", np.int64, 2), ("flag", np.bool_)])


def test_arrays_and_values_come_back(tmp_path: Path) -> None:
    columns = {
        "plain": [np.arange(5, dtype=np.float32), np.arange(3, dtype=np.float32)],
        "empty": [np.zeros((0, 2), np.int32)],
        "pairs": [np.array([((1, 2), True), ((3, 4), False)], PAIR)],
    }
    write_columns(tmp_path / "a.memo", {"name": "\ud800영"}, columns)
    found = map_columns(tmp_path / "a.memo")
    assert found.values == {"name": "\ud800영"}
    np.testing.assert_array_equal(found.column("plain", np.dtype(np.float32), (8,)), np.concatenate(columns["plain"]))
    assert found.column("empty", np.dtype(np.int32), (-1, 2)).shape == (0, 2)
    np.testing.assert_array_equal(found.column("pairs", PAIR, (2,)), columns["pairs"][0])
    assert found.columns["plain"].flags.writeable
    for name, dtype, shape in (("other", np.float32, (8,)), ("plain", np.int32, (8,)), ("plain", np.float32, (7,))):
        with pytest.raises(ColumnFileError):
            found.column(name, np.dtype(dtype), shape)


def test_a_write_to_a_mapped_array_changes_no_file(tmp_path: Path) -> None:
    write_columns(tmp_path / "a.memo", {}, {"x": [np.arange(4)]})
    map_columns(tmp_path / "a.memo").columns["x"][:] = 9
    assert map_columns(tmp_path / "a.memo").columns["x"].tolist() == [0, 1, 2, 3]


def test_every_damaged_byte_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.memo"
    write_columns(path, {"name": 1}, {"x": [np.arange(64)]})
    content = path.read_bytes()
    for place in range(0, len(content), 7):
        damaged = bytearray(content)
        damaged[place] ^= 16
        path.write_bytes(damaged)
        with pytest.raises(ColumnFileError):
            map_columns(path)
    for length in (0, 10, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(ColumnFileError):
            map_columns(path)
