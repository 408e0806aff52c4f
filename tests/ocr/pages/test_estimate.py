import numpy as np
import pytest

from ocr.pages.estimate import SEEN_TEXT, Probe, may_gain, probe_of, probed_heights, text_heights, tile_scale
from ocr.postprocess.boxes import Detections


def box(left, top, width, height):
    return np.array([[left, top], [left + width, top], [left + width, top + height], [left, top + height]], np.float32)


def heights(*values):
    return np.array(values, np.float32)


def test_pages_gain_from_more_than_a_quarter_more_pixels():
    assert not may_gain((800, 400), 640)
    assert may_gain((400, 801), 640)


def test_the_height_of_a_text_is_its_shorter_side_at_any_angle():
    lying = box(0, 0, 50, 8)
    standing = lying[:, ::-1].copy()
    slanted = lying @ np.array([[0.8, 0.6], [-0.6, 0.8]], np.float32)
    found = text_heights(Detections.from_polygons([lying, standing, slanted], [1, 1, 1]))
    np.testing.assert_allclose(found, 8, atol=1e-4)
    assert text_heights(Detections.from_polygons([], [])).shape == (0,)


@pytest.mark.parametrize(
    ("known", "scale"),
    [
        ([heights(*[32.0] * 5)], None),  # 8 px high where 4 px of the page are one of the input
        ([heights(*[31.0] * 5)], SEEN_TEXT / 31),
        ([heights(12.0)], 1.0),  # no more pixels than the page has
        ([heights(40.0), heights(20.0)], SEEN_TEXT / 20),  # the pass with the smallest text
        ([heights(*[40.0] * 20, 6.0)], None),  # a speck
        ([heights(), heights(30.0)], SEEN_TEXT / 30),
        ([heights()], None),
    ],
)
def test_tiles_show_the_smaller_text_at_a_height_that_suits_the_network(known, scale):
    assert tile_scale(known, (1000, 2560), 640) == (None if scale is None else pytest.approx(scale))


def test_a_page_with_hardly_more_pixels_stays_whole():
    assert tile_scale([heights(5.0)], (790, 400), 640) is None


def test_the_probe_shows_the_most_detailed_places_at_two_scales():
    page = np.full((2560, 1600, 3), 200, np.uint8)
    page[2000:2400, 1100:1500:2] = 0
    probe = probe_of(page, 640)
    assert probe.image.shape == (320, 320, 3)
    np.testing.assert_array_equal(probe.scales, [[1, 1], [0.5, 0.5]])
    shown = probe.image[:160, :160]
    assert {0, 200} == set(shown[:, :, 0].ravel().tolist())  # pixels of the page as they are
    assert (shown == 0).mean() > 0.3
    assert probe.image[160:].std() > 0


@pytest.mark.parametrize("size", [(40, 3000), (3000, 1), (65, 66)])
@pytest.mark.parametrize("image_size", [32, 64, 640])
def test_a_probe_of_any_page_fits_the_network(size, image_size):
    side = probe_of(np.zeros((*size, 3), np.uint8), image_size).image.shape[0]
    assert side <= image_size
    assert side % 32 == 0


def test_heights_in_a_probe_are_pixels_of_the_page_and_cut_texts_have_none():
    probe = Probe(np.zeros((320, 320, 3), np.uint8), np.array([[1, 1], [0.5, 0.5]], np.float32))
    texts = [box(10, 20, 100, 12), box(170, 20, 100, 14), box(170, 200, 100, 10), box(10, 150, 60, 9)]
    found = probed_heights(Detections.from_polygons(texts, [1] * 4), probe)
    np.testing.assert_allclose(found, [12, 14, 20])
    assert len(probed_heights(Detections.from_polygons(texts[1:], [1] * 3), probe)) == 0  # two whole ones tell nothing


def test_a_turned_probe_turns_its_scales():
    probe = Probe(np.zeros((4, 4, 3), np.uint8), np.array([[1, 2], [3, 4]], np.float32))
    np.testing.assert_array_equal(probe.turned(90).scales, [[3, 1], [4, 2]])
