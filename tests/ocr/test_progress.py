import logging

from ocr.progress import followed


def test_without_a_terminal_lines_say_how_far_a_step_is(caplog):
    caplog.set_level(logging.INFO)
    assert list(followed(iter("abc"), "Drawing", 3, seconds_between_lines=0)) == ["a", "b", "c"]
    assert caplog.messages == ["Drawing: 1 of 3", "Drawing: 2 of 3"]


def test_a_short_step_says_nothing(caplog):
    caplog.set_level(logging.INFO)
    assert list(followed(range(3), "Drawing", 3)) == [0, 1, 2]
    assert not caplog.messages
