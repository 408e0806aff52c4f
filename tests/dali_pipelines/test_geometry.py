import cv2
import numpy as np
import pytest

from dali_pipelines import geometry


def test_rotation_turns_counter_clockwise_on_the_screen():
    # y points down: a quarter turn counter-clockwise brings the point on the right to the top.
    np.testing.assert_allclose(
        geometry.transform_points(geometry.rotation(90), [[1.0, 0.0]]), [[0.0, -1.0]], atol=1e-12
    )


def test_resized_region_maps_its_corners_to_the_corners_of_the_result():
    matrix = geometry.resized_from_region([10, 20, 30, 60], (80, 10))
    np.testing.assert_allclose(geometry.transform_points(matrix, [[10, 20], [30, 60]]), [[0, 0], [10, 80]])


@pytest.mark.parametrize(
    ("original", "longest", "expected"),
    [
        ((1754, 1240), 640, (640, 452)),
        ((720, 1280), 640, (360, 640)),
        ((1, 3000), 640, (1, 640)),
        ((5, 5), 640, (640, 640)),
    ],
)
def test_letterbox_scales_the_longest_side_and_keeps_at_least_a_pixel(original, longest, expected):
    assert geometry.letterbox_size(original, longest) == expected


def test_opencv_with_the_converted_matrix_moves_a_pixel_exactly():
    image = np.zeros((5, 5), np.uint8)
    image[1, 1] = 255
    # Doubling in continuous coordinates turns pixel 1, which covers [1, 2), into pixels 2 and 3.
    matrix = geometry.opencv_from_continuous(geometry.scaling(2, 2))
    doubled = cv2.warpAffine(image, matrix[:2], (10, 10), flags=cv2.INTER_NEAREST)
    assert set(zip(*np.nonzero(doubled), strict=True)) == {(2, 2), (2, 3), (3, 2), (3, 3)}


def test_a_slant_divides_by_the_distance_along_it():
    matrix = geometry.slant(0.01, 0.02)
    # (100, 0) is divided by 2, (0, -25) by a half, the origin by 1.
    moved = geometry.transform_points(matrix, [[100, 0], [0, -25], [0, 0]])
    np.testing.assert_allclose(moved, [[50, 0], [0, -50], [0, 0]])
    np.testing.assert_allclose(geometry.transform_points(np.linalg.inv(matrix), moved), [[100, 0], [0, -25], [0, 0]])


def test_matrices_are_affine_if_their_last_rows_are():
    affine, perspective = np.eye(3), geometry.slant(0.1, 0)
    assert geometry.is_affine(affine)
    assert not geometry.is_affine(perspective)
    assert not geometry.is_affine([affine, perspective])
    assert geometry.is_affine(np.zeros((0, 3, 3)))
