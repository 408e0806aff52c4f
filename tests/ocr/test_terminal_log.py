"""Colours reach a terminal and nothing else."""

import io
import logging
import sys

import pytest
from rich.text import Text

from ocr.terminal_log import ColouredFormatter, colour_the_terminal

TABLE = Text("usable\n") + Text("what to do", "bold yellow")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def record_of(*arguments: object) -> logging.LogRecord:
    return logging.LogRecord("name", logging.INFO, "file", 1, "%s: %s", arguments, None)


def test_a_text_keeps_its_styles_and_the_rest_of_the_line_its_form():
    line = ColouredFormatter(logging.Formatter("[%(name)s] %(message)s")).format(record_of("train", TABLE))
    assert line.startswith("[name] train: usable\n\x1b[1;33m")
    assert "what to do\x1b[0m" in line


def test_a_record_without_styled_text_stays_as_it_is():
    assert ColouredFormatter(logging.Formatter("%(message)s")).format(record_of("train", "x")) == "train: x"


@pytest.mark.parametrize(
    ("stream", "no_colour", "is_coloured"), [(Terminal, "", True), (io.StringIO, "", False), (Terminal, "1", False)]
)
def test_only_a_terminal_gets_colours(stream, no_colour, is_coloured, monkeypatch):
    monkeypatch.setenv("NO_COLOR", no_colour)
    monkeypatch.setattr(sys, "stdout", stream())
    handler = logging.StreamHandler(sys.stdout)
    logging.getLogger().addHandler(handler)
    try:
        colour_the_terminal()
        assert isinstance(handler.formatter, ColouredFormatter) == is_coloured
    finally:
        logging.getLogger().removeHandler(handler)
