import numpy as np
import pytest

from ocr.pages.views import turned, turned_back, turned_size, view_from_original
from ocr.postprocess.boxes import Detections

TURNS = (0, 90, 180, 270)


def test_a_clockwise_turn_brings_the_left_side_up():
    image = np.zeros((2, 3, 3), np.uint8)
    image[:, 0] = 9
    assert (turned(image, 90)[0] == 9).all()
    assert (turned(image, 180)[:, -1] == 9).all()
    assert (turned(image, 270)[-1] == 9).all()


@pytest.mark.parametrize("rotation", TURNS)
def test_the_matrix_moves_pixel_centres_as_the_turn_moves_pixels(rotation):
    image = np.random.default_rng(0).integers(0, 255, (4, 7, 3), np.uint8)
    moved = turned(image, rotation)
    assert moved.shape[:2] == turned_size((4, 7), rotation)
    for y, x in np.ndindex(4, 7):
        view_x, view_y, _ = view_from_original(rotation, (4, 7)) @ (x + 0.5, y + 0.5, 1)
        np.testing.assert_array_equal(moved[int(view_y), int(view_x)], image[y, x])


@pytest.mark.parametrize("rotation", TURNS)
def test_polygons_come_back_and_keep_their_first_edge(rotation):
    quad = np.array([[10, 20], [60, 20], [60, 30], [10, 30]], np.float32)
    points = np.c_[quad, np.ones(4)] @ view_from_original(rotation, (100, 200)).T
    view = Detections.from_polygons([points[:, :2].astype(np.float32)], [0.5])
    (found,) = turned_back(view, rotation, (100, 200)).polygons
    np.testing.assert_allclose(found, quad, atol=1e-4)
