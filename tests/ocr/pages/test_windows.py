from itertools import pairwise

import pytest

from ocr.pages.windows import NETWORK_STRIDE, OVERLAP, windows_of


@pytest.mark.parametrize("side", [32, 64, 96, 320, 1280])
@pytest.mark.parametrize("length", [1, 31, 32, 33, 640, 641, 1279, 1280, 1281, 3333, 10_000])
@pytest.mark.parametrize("map_stride", [1, 4])
def test_windows_own_each_pixel_once_and_see_what_they_own(length, side, map_stride):
    windows = windows_of(length, side, map_stride)
    assert windows[0].first == 0
    assert windows[-1].last == windows[-1].end == length
    for window in windows:
        assert window.start <= window.first < window.last <= window.end <= window.start + side
        assert window.start % NETWORK_STRIDE == 0
        assert window.first % map_stride == 0
    for window, following in pairwise(windows):
        assert window.last == following.first
        assert window.start < following.start


def test_neighbours_overlap_by_a_fifth_and_join_in_the_middle():
    windows = windows_of(3000, 640, 2)
    for window, following in pairwise(windows):
        assert window.end - following.start >= OVERLAP * 640
        assert window.last == (window.end + following.start) // 2
    assert len(windows) == 6


def test_an_axis_that_fits_has_one_window():
    assert windows_of(640, 640, 4) == [(0, 640, 0, 640)]
