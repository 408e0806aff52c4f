from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from ocr.datasets.epoch_order import epoch_order, sample_counts
from ocr.datasets.manifest import SET_SHIFT, Manifest, ManifestSet
from ocr.polygons import PolygonBatch


def make_manifest(*sets: ManifestSet) -> Manifest:
    """A manifest of sets whose first images were skipped."""
    ids = [np.arange(one.num_listed - one.num_images, one.num_listed) + (k << SET_SHIFT) for k, one in enumerate(sets)]
    sample_ids = np.concatenate(ids)
    names = tuple(str(number) for number in sample_ids)
    count = len(names)
    return Manifest(
        names,
        names,
        sample_ids,
        np.full((count, 2), 100, np.int32),
        np.ones(count, np.uint8),
        PolygonBatch.from_lists([[]] * count),
        sum(one.num_listed for one in sets),
        sets=sets,
    )


def of_set(manifest: Manifest, number: int, seed: int = 1, epoch: int = 0) -> list[tuple[int, int]]:
    """Returns the samples of one set in an epoch, in order, as (listed position, pass)."""
    indices, passes = epoch_order(manifest, seed, epoch)
    ids = manifest.sample_ids[indices]
    return [
        (int(i) & (1 << SET_SHIFT) - 1, int(p)) for i, p in zip(ids, passes, strict=True) if i >> SET_SHIFT == number
    ]


def test_one_data_set_has_the_order_of_its_keys():
    (only,) = (ManifestSet("a", 7, 9),)
    manifest = make_manifest(only)
    keys = np.random.Generator(np.random.Philox(key=[5, 2], counter=[0, 0, 0, 0])).random(9)
    for same in (manifest, replace(manifest, sets=())):
        indices, passes = epoch_order(same, 5, 2)
        np.testing.assert_array_equal(indices, np.argsort(keys[2:], kind="stable"))
        assert not passes.any()


def test_blocks_of_neighbours_are_shuffled_and_their_images_mixed():
    manifest = make_manifest(ManifestSet("a", 4000, 4000))
    indices, passes = epoch_order(manifest, 1, 0, block=8)
    assert sorted(indices) == list(range(4000))
    assert not passes.any()
    assert np.abs(np.corrcoef(np.arange(4000), indices)[0, 1]) < 0.2
    windows = indices[:3840].reshape(-1, 8, 32)  # 32 blocks each, by columns
    whole = np.count_nonzero((np.diff(windows, axis=1) == 1).all(axis=1))
    assert whole > 0.8 * windows.shape[0] * 32, "the shorter first and last block shift the columns of their windows"
    assert not np.array_equal(epoch_order(manifest, 1, 1, block=8)[0], indices)
    np.testing.assert_array_equal(epoch_order(manifest, 1, 0, block=8)[0], indices)


@pytest.mark.parametrize("num_images", [1, 3, 8, 9])
def test_few_images_in_blocks_come_once_each(num_images):
    manifest = make_manifest(ManifestSet("a", num_images, num_images + 2))
    for epoch in range(4):
        assert sorted(epoch_order(manifest, 1, epoch, block=8)[0]) == list(range(num_images))


def test_blocks_keep_the_weights_of_the_sets():
    manifest = make_manifest(ManifestSet("a", 30, 30, weight=3), ManifestSet("b", 10, 10, weight=1))
    for block in (1, 4):
        indices, passes = epoch_order(manifest, 1, 0, block)
        assert Counter(indices < 30) == {True: 30, False: 10}
        assert len({*zip(indices, passes, strict=True)}) == 40


def test_without_weights_every_image_comes_once_and_the_sets_are_mixed():
    manifest = make_manifest(ManifestSet("a", 60, 60), ManifestSet("b", 40, 50))
    indices, passes = epoch_order(manifest, 1, 0)
    assert sorted(indices) == list(range(100))
    assert not passes.any()
    assert 10 < np.count_nonzero(indices[:50] < 60) < 50


@pytest.mark.parametrize(
    ("sizes", "weights", "counts"),
    [
        ((30, 10), (1, 1), [20, 20]),
        ((30, 10), (3, 1), [30, 10]),
        ((10, 10, 10), (1, 1, 1), [10, 10, 10]),
        ((5, 5, 1), (1, 1, 1), [4, 4, 3]),
        ((1000, 1), (1, 1e-9), [1001, 0]),
        ((3, 3), (1e-300, 1e300), [0, 6]),
    ],
)
def test_weights_share_the_epoch(sizes, weights, counts):
    sets = tuple(ManifestSet(str(n), n, n, weight=w) for n, w in zip(sizes, weights, strict=True))
    assert sample_counts(sets) == counts
    assert sum(counts) == sum(sizes)


def test_an_epoch_takes_whole_passes_and_a_random_part_of_one_more():
    manifest = make_manifest(ManifestSet("a", 30, 30, weight=1), ManifestSet("b", 8, 10, weight=1))
    few, many = of_set(manifest, 0), of_set(manifest, 1)
    assert len(few) == len(many) == 19
    assert len({place for place, _ in few}) == 19
    assert {number for _, number in few} == {0}
    times = Counter(place for place, _ in many)
    assert set(times) == set(range(2, 10))  # the first two were skipped
    assert sorted(times.values()) == [2] * 5 + [3] * 3
    assert len(set(many)) == 19  # each time under another number
    chosen = [{place for place, _ in of_set(manifest, 0, epoch=epoch)} for epoch in range(4)]
    assert len(set.union(*chosen)) > 25  # another choice in each epoch


def test_the_samples_of_a_set_do_not_depend_on_the_images_of_another_one():
    a, b = ManifestSet("a", 20, 20, weight=1), ManifestSet("b", 10, 10, weight=1)
    skipped = make_manifest(a, replace(b, num_images=8))
    more_listed = make_manifest(a, replace(b, num_listed=40))
    whole = of_set(make_manifest(a, b), 0)
    assert of_set(more_listed, 0) == whole
    assert set(of_set(skipped, 0)) <= set(whole)  # the epoch is shorter by two images
