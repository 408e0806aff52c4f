import numpy as np

from dali_pipelines.source import PlannedBatch
from ocr.datasets.plan import letterbox

SIZES = [(10, 20), (30, 20), (64, 64), (7, 9)]


def planned() -> PlannedBatch:
    return letterbox([5, 6, 7, 8], SIZES, 64, is_padding=np.array([False, False, False, True]))


def test_rows_are_samples():
    samples = planned()
    assert len(samples) == 4
    assert [sample.index for sample in samples] == [5, 6, 7, 8]
    assert samples[1].resized_size == (64, 43)
    assert samples[3].is_padding
    assert samples[1].region_xyxy.tolist() == [0, 0, 20, 30]


def test_chosen_rows_keep_their_order_and_may_repeat():
    samples = planned()
    assert samples.select([3, 0, 3]).indices.tolist() == [8, 5, 8]
    assert samples.select(slice(1, 3)).is_padding.tolist() == [False, False]
    assert samples.select([2])[0].resized_size == samples[2].resized_size
    joined = PlannedBatch.concatenate([samples.select([0]), samples.select([1, 2, 3])])
    for one, other in zip(joined, samples, strict=True):
        assert one.index == other.index
        assert np.array_equal(one.input_from_original, other.input_from_original)


def test_failed_rows_are_padding_in_a_copy():
    samples = planned()
    failed = samples.with_failed([1])
    assert failed.has_failed.tolist() == [False, True, False, False]
    assert failed.is_padding.tolist() == [False, True, False, True]
    assert (failed.num_real, samples.num_real) == (2, 3)
    assert not samples.has_failed.any()
    assert samples.with_failed([]) is samples
