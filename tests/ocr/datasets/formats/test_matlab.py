import io
import struct
import zlib

import numpy as np
import pytest

from ocr.datasets.formats.matlab import MatProblem, read_mat

sio = pytest.importorskip("scipy.io", reason="SciPy writes the MAT-files of these tests")


def saved(*, compressed: bool = False, **variables: object) -> bytes:
    file = io.BytesIO()
    sio.savemat(file, variables, do_compression=compressed)
    return file.getvalue()


@pytest.mark.parametrize("compressed", [False, True])
def test_numbers_texts_and_cells_are_those_that_were_written(compressed: bool) -> None:
    cells = np.empty((2, 3), object)
    cells[:] = [["x:", np.array([[1, 2, 300]], np.int16), "카페"], [np.zeros((0, 0)), np.array([[1.5], [2]]), ""]]
    read = read_mat(saved(compressed=compressed, cells=cells, number=np.array([[7, 8], [9, 10]], np.uint8)))
    np.testing.assert_array_equal(read["number"], [[7, 8], [9, 10]])
    found = read["cells"]
    assert (found[0, 0], found[0, 2], found[1, 2]) == ("x:", "카페", "")
    np.testing.assert_array_equal(found[0, 1], [[1, 2, 300]])
    np.testing.assert_array_equal(found[1, 1], [[1.5], [2]])
    assert found[1, 0].shape == (0, 0)


@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
def test_all_types_of_numbers(dtype: str) -> None:
    np.testing.assert_array_equal(read_mat(saved(a=np.array([[0, 1, 100]], dtype)))["a"], [[0, 1, 100]])


def test_structures_are_left_out() -> None:
    assert list(read_mat(saved(a={"b": 1}, c=np.array([[1.0]])))) == ["c"]


def test_every_cut_of_a_file_is_a_problem_or_fewer_variables() -> None:
    whole = saved(a=np.array([[1.0, 2.0]]), b="text")
    for end in range(0, len(whole), 3):
        try:
            assert set(read_mat(whole[:end])) <= {"a", "b"}
        except MatProblem:
            continue


def test_random_damage_is_a_problem_and_no_other_error() -> None:
    cells = np.empty((2, 2), object)
    cells[:] = [["x:", np.arange(5)], ["y:", np.arange(4.0)]]
    whole, generator = saved(polygt=cells), np.random.default_rng(0)
    for _ in range(500):
        damaged = bytearray(whole)
        for place in generator.integers(128, len(whole), 3):
            damaged[place] = generator.integers(256)
        try:
            read_mat(bytes(damaged))
        except MatProblem:
            continue


def header(order: bytes = b"IM") -> bytes:
    return b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01" + order


def test_a_variable_that_unpacks_to_too_much_is_refused() -> None:
    packed = zlib.compress(struct.pack("<II", 14, 1 << 27) + bytes(1 << 27))
    with pytest.raises(MatProblem, match="more than 64 MB"):
        read_mat(header() + struct.pack("<II", 15, len(packed)) + packed)


def test_a_number_of_cells_beyond_the_file_is_refused() -> None:
    dimensions = struct.pack("<IIii", 5, 8, 1 << 30, 1 << 30)
    array = struct.pack("<IIII", 6, 8, 1, 0) + dimensions + struct.pack("<II", 1, 0)
    with pytest.raises(MatProblem, match="ends too early"):
        read_mat(header() + struct.pack("<II", 14, len(array)) + array)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "no MAT-file"),
        (b"\x89HDF\r\n\x1a\n", "7.3"),
        (b"MATLAB 7.3 MAT-file".ljust(512), "7.3"),
        (b"x" * 500, "no MAT"),
    ],
)
def test_other_files_are_named(content: bytes, found: str) -> None:
    with pytest.raises(MatProblem, match=found):
        read_mat(content)
