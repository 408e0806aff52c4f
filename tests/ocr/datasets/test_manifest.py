import numpy as np

from ocr.datasets.manifest import Manifest
from ocr.polygons import PolygonBatch


def test_original_sizes_are_swapped_where_the_picture_is_turned_by_a_quarter() -> None:
    manifest = Manifest(
        image_paths=("/a.jpg", "/b.jpg", "/c.jpg"),
        filenames=("a.jpg", "b.jpg", "c.jpg"),
        sample_ids=np.array([0, 2, 3]),
        stored_sizes=np.array([[10, 20], [30, 40], [50, 60]], np.int32),
        orientations=np.array([3, 6, 5], np.uint8),
        polygons=PolygonBatch.from_lists([[], [], []]),
        num_listed=4,
    )
    np.testing.assert_array_equal(manifest.original_sizes, [[10, 20], [40, 30], [60, 50]])
    assert manifest.original_sizes.dtype == np.int32
    assert manifest.original_sizes is manifest.original_sizes  # not computed again for each batch of a plan
    assert manifest.largest_stored == (50, 60)
    assert [manifest.stored_image(index).upright_size for index in range(3)] == [(10, 20), (40, 30), (60, 50)]
    assert len(manifest) == 3


def test_an_empty_manifest_has_no_sizes() -> None:
    manifest = Manifest(
        (), (), np.zeros(0, np.int64), np.zeros((0, 2), np.int32), np.zeros(0, np.uint8), PolygonBatch.from_lists([]), 0
    )
    assert manifest.original_sizes.shape == (0, 2)
    assert manifest.largest_stored == (0, 0)
    assert len(manifest) == 0
