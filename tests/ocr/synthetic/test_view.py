import numpy as np

from ocr.synthetic.text import Wave, pixel_centres, sample
from ocr.synthetic.view import View


def test_pixels_and_points_of_a_sheet_land_at_the_same_place_in_the_photo() -> None:
    matrix = np.array([[0.9, 0.1, 12.0], [-0.08, 0.95, 20.0], [1e-4, 2e-4, 1.0]])
    view = View(matrix, Wave(0, 0, 9, 150, 0.4), Wave(0, 0, 5, 130, 2.0))
    marks = np.array([[30.0, 40.0], [150.0, 42.5], [77.25, 120.5]])
    for mark in marks:
        y, x = np.mgrid[0:160, 0:200] + 0.5
        page = (255 * np.exp(-((x - mark[0]) ** 2 + (y - mark[1]) ** 2) / 18)).astype(np.uint8)
        photo = sample(page, view.page_from_photo(pixel_centres(0, 0, 220, 200))).astype(np.float64)
        rows, columns = np.mgrid[0:200, 0:220] + 0.5
        centroid = np.array([(columns * photo).sum(), (rows * photo).sum()]) / photo.sum()
        np.testing.assert_allclose(centroid, view.photo_from_page(mark), atol=0.15)
    np.testing.assert_allclose(view.page_from_photo(view.photo_from_page(marks)), marks, atol=1e-9)
