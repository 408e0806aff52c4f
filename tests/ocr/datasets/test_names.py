import numpy as np
import pytest

from ocr.datasets.names import Names

STRINGS = ("a.jpg", "", "영수증/b.jpg", "\udc80.jpg", "a.jpg")


def test_names_are_a_sequence_of_the_same_strings() -> None:
    names = Names.of(STRINGS)
    assert len(names) == 5
    assert names == STRINGS
    assert names == list(STRINGS)
    assert names != STRINGS[:4]
    assert (names[2], names[-1], names[1:3], names[np.int64(0)]) == (STRINGS[2], "a.jpg", STRINGS[1:3], "a.jpg")
    assert list(names) == list(STRINGS)
    assert names.index("영수증/b.jpg") == 2
    assert "b" not in names
    for outside in (5, -6):
        with pytest.raises(IndexError, match=f"position {outside} of 5 names"):
            names[outside]


def test_a_prefix_stands_before_each_name() -> None:
    assert Names.of(STRINGS).with_prefix("/data/")[2] == "/data/영수증/b.jpg"


def test_selected_and_joined_names() -> None:
    names = Names.of(STRINGS)
    assert names.select([3, 0, 0]) == (STRINGS[3], "a.jpg", "a.jpg")
    assert names.select([]) == ()
    assert Names.joined([names, Names.of([]), names.select([2])]) == (*STRINGS, STRINGS[2])
    assert Names.joined([]) == ()


def test_equal_names_have_equal_codes() -> None:
    names = Names.of(STRINGS)
    assert names.codes[0] == names.codes[4]
    assert len(set(names.codes.tolist())) == 4
    other = Names.of(["b.jpg", "a.jpg"])
    assert names.equal(np.array([0, 4, 1]), other, np.array([1, 0, 0])).tolist() == [True, False, False]
