import numpy as np
import pytest

from ocr.synthetic.text import Arc, Curve, Straight, Style, Wave, draw_run, pixel_centres, sample


def _rng(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(seed))


def test_box_of_a_run_is_its_ink() -> None:
    run = draw_run("Hxg", Style("Roboto", 40))
    left, top, right, bottom = (round(side + run.origin[i % 2]) for i, side in enumerate(run.box))
    is_ink = run.coverage >= 64
    assert is_ink[top:bottom, left:right].sum() == is_ink.sum()
    assert all(strip.any() for strip in (is_ink[top], is_ink[bottom - 1], is_ink[:, left], is_ink[:, right - 1]))
    assert run.box[1] == pytest.approx(-40, abs=1), "a capital letter is as high as the style says, above the baseline"
    assert run.box[3] > 5, "the g reaches below the baseline"


def test_arc_lays_a_quarter_turn_on_a_circle() -> None:
    hill = Arc(x=100, y=50, radius=10)
    quarter = 10 * np.pi / 2
    points = np.array([[0.0, 0.0], [0.0, -3.0], [quarter, 0.0], [-quarter, -5.0]])
    np.testing.assert_allclose(hill.bend(points), [[100, 50], [100, 47], [110, 60], [85, 60]], atol=1e-9)
    valley = Arc(x=100, y=50, radius=-10)
    np.testing.assert_allclose(valley.bend(points), [[100, 50], [100, 47], [110, 40], [95, 40]], atol=1e-9)


@pytest.mark.parametrize(
    "curve", [Straight(3, 4), Arc(30, 40, 90), Arc(30, 40, -90), Wave(3, 4, 5, 60, 1.0)], ids=lambda curve: repr(curve)
)
def test_flatten_is_the_inverse_of_bend(curve: Curve) -> None:
    points = _rng(0).uniform(-50, 50, (20, 3, 2))
    np.testing.assert_allclose(curve.flatten(curve.bend(points)), points, atol=1e-9)


def test_sampling_at_pixel_centres_gives_the_image_back() -> None:
    image = _rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    np.testing.assert_array_equal(sample(image, pixel_centres(0, 0, 7, 5)), image)
    np.testing.assert_array_equal(sample(image, pixel_centres(2, 1, 3, 4)), image[1:5, 2:5])
