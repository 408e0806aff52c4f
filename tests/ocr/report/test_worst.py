"""The maps of the worst images are kept, whatever their order, and no others."""

import io

import numpy as np
import pytest
from PIL import Image

from ocr.metrics.icdar import MatchCounts
from ocr.report.worst import TEXT_COLOUR, WorstMaps, as_png

NAMES = [f"{number}.jpg" for number in range(6)]
COUNTS = [MatchCounts(matched, 10, 10) for matched in (9, 2, 7, 0, 5, 2)]
LEVELS = np.full((4, 6), 200, np.uint8)


@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4, 5), (5, 4, 3, 2, 1, 0), (3, 0, 5, 2, 4, 1)])
def test_the_worst_are_kept_in_any_order_of_offers(tmp_path, order):
    maps = WorstMaps(tmp_path / "maps", NAMES, 3)
    for index in order:
        maps.offer(index, COUNTS[index], LEVELS)
    assert sorted(path.name for path in (tmp_path / "maps").iterdir()) == ["1.jpg.png", "3.jpg.png", "5.jpg.png"]


def test_a_continued_evaluation_keeps_the_maps_of_both_parts(tmp_path):
    first = WorstMaps(tmp_path, NAMES, 3)
    for index in (0, 1, 2):
        first.offer(index, COUNTS[index], LEVELS)
    second = WorstMaps(tmp_path, NAMES, 3)
    for index in (0, 1, 2):
        second.note(index, COUNTS[index])
    for index in (3, 4, 5):
        second.offer(index, COUNTS[index], LEVELS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.jpg.png", "3.jpg.png", "5.jpg.png"]


def test_maps_of_an_earlier_evaluation_are_dropped(tmp_path):
    (tmp_path / "old.jpg.png").write_bytes(b"")
    maps = WorstMaps(tmp_path, NAMES, 1)
    maps.offer(2, COUNTS[2], LEVELS)
    maps.drop_others()
    assert [path.name for path in tmp_path.iterdir()] == ["2.jpg.png"]


def test_no_map_is_kept_when_none_is_wanted(tmp_path):
    maps = WorstMaps(tmp_path, NAMES, 0)
    maps.offer(2, COUNTS[2], LEVELS)
    assert list(tmp_path.iterdir()) == []


def test_the_picture_of_a_map_holds_the_levels_and_is_clear_where_nothing_is():
    levels = np.array([[0, 100], [128, 255]], np.uint8)
    with Image.open(io.BytesIO(as_png(levels))) as picture:
        assert np.asarray(picture).tolist() == levels.tolist()
        colours = np.asarray(picture.convert("RGBA"))
    assert colours[0, 0, 3] == 0
    assert tuple(colours[1, 1, :3]) == TEXT_COLOUR
    assert 0 < colours[0, 1, 3] < colours[1, 0, 3] < colours[1, 1, 3]
