import numpy as np
import pytest

from ocr.polygons import PolygonBatch

TRIANGLE, SQUARE = [[0, 0], [1, 0], [1, 1]], [[0, 0], [2, 0], [2, 2], [0, 2]]


def make_batch() -> PolygonBatch:
    return PolygonBatch.from_lists([[TRIANGLE], [], [SQUARE, TRIANGLE]], [[True], [], [False, True]])


def test_a_batch_returns_the_polygons_of_its_lists():
    batch = make_batch()
    assert len(batch) == 3
    assert [p.tolist() for p in batch.polygons_of(2)] == [SQUARE, TRIANGLE]
    assert batch.polygons_of(1) == []
    assert batch.ignore_of(2).tolist() == [False, True]
    assert batch.image_of_polygon.tolist() == [0, 2, 2]
    assert batch.polygon_of_vertex.tolist() == [0] * 3 + [1] * 4 + [2] * 3


def test_images_can_be_selected_in_any_order_and_repeatedly():
    chosen = make_batch().select([2, 1, 2])
    assert [p.tolist() for p in chosen.polygons_of(0)] == [SQUARE, TRIANGLE]
    assert chosen.polygons_of(1) == []
    assert [p.tolist() for p in chosen.polygons_of(2)] == [SQUARE, TRIANGLE]
    assert chosen.ignore.tolist() == [False, True, False, True]


def test_each_image_is_moved_by_its_own_matrix_in_a_copy():
    batch = make_batch()
    matrices = np.tile(np.eye(3), (3, 1, 1))
    matrices[2] = [[2, 0, 10], [0, 3, 20], [0, 0, 1]]
    moved = batch.transformed(matrices)
    assert moved.polygons_of(0)[0].tolist() == TRIANGLE
    assert moved.polygons_of(2)[0].tolist() == [[10, 20], [14, 20], [14, 26], [10, 26]]
    assert batch.polygons_of(2)[0].tolist() == SQUARE


def test_a_perspective_divides_each_vertex_of_its_own_image():
    matrices = np.tile(np.eye(3), (3, 1, 1))
    matrices[2, 2] = [0.5, 0, 1]
    moved = make_batch().transformed(matrices)
    assert moved.polygons_of(0)[0].tolist() == TRIANGLE
    assert moved.polygons_of(2)[0].tolist() == [[0, 0], [1, 0], [1, 1], [0, 2]]


def test_an_empty_batch_can_be_selected_and_moved():
    empty = PolygonBatch.from_lists([[], []])
    moved = empty.select([1]).transformed(np.eye(3)[None])
    assert (len(moved), moved.num_polygons, moved.vertices.shape) == (1, 0, (0, 2))


def test_the_number_of_flags_must_match_the_polygons():
    with pytest.raises(ValueError, match="1 flags for 2 polygons"):
        PolygonBatch.from_lists([[TRIANGLE, SQUARE]], [[True]])
