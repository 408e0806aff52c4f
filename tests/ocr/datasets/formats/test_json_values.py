from typing import Any

import numpy as np
import pytest

from ocr.datasets.formats.json_values import (
    Malformed,
    as_flag,
    as_id,
    as_number,
    corners_rectangle,
    flat_polygon,
    nested_polygon,
    rectangle,
    sides_rectangle,
)

DEEP: Any = []
for _ in range(10_000):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    "value",
    [
        None,
        "1,2,3,4,5,6",
        [],
        [0, 0, 1, 0],
        [0, 0, 1, 0, 1, 1, 0],
        [0, 0, 1, 0, 1, "1"],
        [0, 0, 1, 0, 1, True],
        [0, 0, 1, 0, 1, None],
        [[0, 0], [1, 0], [1, 1]],
        [0, 0, 1, 0, 1, 10**400],
        [DEEP] * 6,
    ],
)
def test_anything_but_a_flat_list_of_three_points_is_malformed(value: Any) -> None:
    with pytest.raises(Malformed, match=r"found p = .*; expected "):
        flat_polygon(value, "p")


@pytest.mark.parametrize(
    "value",
    [
        None,
        [[0, 0], [1, 0]],
        [[0, 0], [1, 0], [1]],
        [[0, 0], [1, 0], ["1", 1]],
        [0, 0, 1, 0, 1, 1],
        [[0, 0], [1, 0], [True, 1]],
    ],
)
def test_anything_but_a_list_of_three_pairs_is_malformed(value: Any) -> None:
    with pytest.raises(Malformed, match=r"found p = .*; expected a list of at least 3 points \[x, y\]"):
        nested_polygon(value, "p")


def test_polygons_of_both_forms_are_equal() -> None:
    flat, nested = flat_polygon([0, 1, 2.5, 3, 4, 5], "p"), nested_polygon([[0, 1], [2.5, 3], [4, 5]], "p")
    np.testing.assert_array_equal(flat, nested)
    assert flat.dtype == nested.dtype == np.float64


def test_nan_and_infinity_stay_for_the_audit_to_name() -> None:
    assert np.isnan(flat_polygon([0, 1, float("nan"), 3, 4, 5], "p")).sum() == 1
    assert np.isinf(nested_polygon([[0, 1], [float("inf"), 3], [4, 5]], "p")).sum() == 1


def test_rectangles_of_corners_and_of_sides_are_equal() -> None:
    expected = [[1, 2], [4, 2], [4, 6], [1, 6]]
    np.testing.assert_array_equal(corners_rectangle([1, 2, 4, 6], "b"), expected)
    np.testing.assert_array_equal(sides_rectangle([1, 2, 3, 4], "b"), expected)


@pytest.mark.parametrize("value", [[10, 20, 5, 30], [10, 20, 30, 5], [1, 2, 3], [1, 2, 3, "4"], {"x": 1}])
def test_corners_in_another_order_or_number_are_malformed(value: Any) -> None:
    with pytest.raises(Malformed):
        corners_rectangle(value, "bbox")


def test_a_rectangle_turns_clockwise_about_its_corner() -> None:
    # On the image, y points down: after 90 degrees clockwise, the upper side points down and the left side points left.
    np.testing.assert_allclose(rectangle(10, 20, 4, 2, 90), [[10, 20], [10, 24], [8, 24], [8, 20]], atol=1e-12)
    np.testing.assert_allclose(rectangle(10, 20, 4, 2, -90), [[10, 20], [10, 16], [12, 16], [12, 20]], atol=1e-12)
    np.testing.assert_array_equal(rectangle(10, 20, 4, 2, 360), [[10, 20], [14, 20], [14, 22], [10, 22]])


@pytest.mark.parametrize(
    ("value", "expected"), [(7, "7"), ("7", "7"), (7.0, "7"), ("a_1", "a_1"), (9.001002844e11, "900100284400")]
)
def test_ids_are_equal_as_numbers_and_as_text(value: Any, expected: str) -> None:
    assert as_id(value, "id") == expected


@pytest.mark.parametrize("value", [None, "", True, 1.5, float("nan"), float("inf"), [], {}, 10**400])
def test_other_ids_are_malformed(value: Any) -> None:
    with pytest.raises(Malformed, match="found id = "):
        as_id(value, "id")


@pytest.mark.parametrize("value", ["5", None, True, 10**400, float("inf")])
def test_other_numbers_are_malformed(value: Any) -> None:
    with pytest.raises(Malformed, match="found n = "):
        as_number(value, "n")


@pytest.mark.parametrize(("value", "expected"), [(None, False), (0, False), (1, True), (True, True), (False, False)])
def test_flags_are_booleans_or_bits(value: Any, expected: bool) -> None:
    assert as_flag({"f": value}, "f") is expected


@pytest.mark.parametrize("value", ["true", 2, [], {}, 0.5])
def test_other_flags_are_malformed(value: Any) -> None:
    with pytest.raises(Malformed, match=r"found f = .*; expected true or false"):
        as_flag({"f": value}, "f")
