import numpy as np
import pytest

from ocr.datasets.philox import random_doubles

LARGEST = 2**64 - 1


def numpys(key: tuple[int, int], sample_id: int, stream: int, count: int) -> np.ndarray:
    return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, sample_id, stream])).random(count)


@pytest.mark.parametrize("count", [0, 1, 4, 47])
def test_the_numbers_are_those_of_numpy(count):
    rng = np.random.default_rng(0)
    keys = [(0, 0), (42, 3), (LARGEST, 2**63), *rng.integers(0, 2**63, (30, 2)).tolist()]
    for key in keys:
        sample_ids = rng.integers(0, 2**40, 3)
        stream = int(rng.integers(0, 4))
        expected = [numpys(key, int(sample_id), stream, count) for sample_id in sample_ids]
        np.testing.assert_array_equal(random_doubles(key, sample_ids, stream, count), expected)


def test_no_samples_have_no_numbers():
    assert random_doubles((1, 2), np.zeros(0, np.int64), 1, 5).shape == (0, 5)
