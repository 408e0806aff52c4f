from ocr.datasets.reference_plan import hide_cut_polygons
from ocr.polygons import PolygonBatch


def test_polygons_cut_by_the_crop_become_dont_care():
    boxes = PolygonBatch.from_lists(
        [
            [
                [[0, 0], [10, 0], [10, 10], [0, 10]],
                [[-9, 0], [1, 0], [1, 10], [-9, 10]],
                [[-5, 0], [5, 0], [5, 10], [-5, 10]],
            ]
        ],
        [[True, False, False]],
    )
    assert hide_cut_polygons(boxes, 0.25, 640).ignore.tolist() == [True, True, False]
    assert boxes.ignore.tolist() == [True, False, False]
