"""Hard and strange images come first, with the reason."""

import numpy as np

from ocr.datasets.data_checks import Measures
from ocr.inspection.strange import strangest


def measures_of(sizes: list[tuple[int, int]], heights: list[float]) -> Measures:
    """Returns images of these (H, W) with two words each, as tall as given and three times as long."""
    num = len(sizes)
    sides = np.repeat(np.float32(heights), 2)
    return Measures(
        positions=np.arange(num),
        sizes=np.int32(sizes),
        is_turned=np.zeros(num, np.bool_),
        num_words=np.full(num, 2),
        image_of_word=np.repeat(np.arange(num), 2),
        ignore=np.zeros(2 * num, np.bool_),
        short_sides=sides,
        boxes=np.stack([3 * sides, sides], axis=1),
    )


def test_small_words_and_an_odd_shape_come_first_with_their_reasons():
    measures = measures_of([(1000, 1000)] * 8 + [(100, 4000)], [30.0] * 4 + [5.0] + [30.0] * 4)
    first, second = strangest(measures, 640, 8.0, 2)
    assert {first.place, second.place} == {4, 8}
    reasons = {chosen.place: chosen.reasons for chosen in (first, second)}
    assert "100 % of the words below 8 px" in reasons[4]
    assert "40.00 times as wide as high" in reasons[8]


def test_images_alike_have_no_reasons_and_no_more_than_the_number_come():
    chosen = strangest(measures_of([(1000, 1000)] * 6, [30.0] * 6), 640, 8.0, 4)
    assert len({one.place for one in chosen}) == 4
    assert all(one.reasons == () for one in chosen)
