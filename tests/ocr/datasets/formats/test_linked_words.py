import numpy as np

from ocr.datasets.formats.annotated import FormatProblem
from ocr.datasets.formats.linked_words import LinkedWords

TRIANGLE = np.array([[0.0, 0], [4, 0], [4, 4.5]])
QUAD = np.array([[1.0, 1], [5, 1], [5, 6], [1, 6]])


def test_words_come_back_by_image_in_the_order_of_the_file() -> None:
    words = LinkedWords()
    words.add("b", "1", QUAD, False)
    words.add("a", "영\ud800", TRIANGLE, True)
    words.add("b", "3", TRIANGLE, False)
    words.add_problem("a", FormatProblem("4", "x", "y"))

    first, second = words.words_of("b")
    np.testing.assert_array_equal(first.points, QUAD)
    np.testing.assert_array_equal(second.points, TRIANGLE)
    assert (first.key, second.key, first.ignore, second.ignore) == ("1", "3", False, False)
    (word,) = words.words_of("a")
    np.testing.assert_array_equal(word.points, TRIANGLE)
    assert (word.key, word.ignore) == ("영\ud800", True)
    assert words.words_of("c") == ()
    assert words.image("a", "a.jpg", "all.json", (4, 5)).problems == (FormatProblem("4", "x", "y"),)
    assert words.image("c", "c.jpg", "all.json", (4, 5)).problems == ()


def test_words_can_be_ignored_later() -> None:
    words = LinkedWords()
    words.add("a", "1", QUAD, False)
    words.add("a", "2", QUAD, False)
    words.set_ignored([1])
    assert [word.ignore for word in words.words_of("a")] == [False, True]


def test_ids_that_point_nowhere_are_listed() -> None:
    words = LinkedWords()
    words.add("a", "1", QUAD, False)
    words.add("b", "2", QUAD, False)
    assert words.images_not_in({"a": 1}) == ["b"]
