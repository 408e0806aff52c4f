"""The form in which the program was started: a checkout with `uv run scripts/NAME.py`, or the installed `dali-dbnet NAME`."""

import re
import sys
from pathlib import Path

PROGRAM_NAME = "dali-dbnet"
COMMAND_OF_SCRIPT = {
    "train": "train",
    "evaluate": "evaluate",
    "predict": "predict",
    "export": "export",
    "prepare_data": "prepare",
    "inspect_data": "inspect",
    "compare_loaders": "compare",
}
"""Command of the installed program for each script."""

_SCRIPT = re.compile(r"(?:uv run )?scripts/(\w+)\.py")
_EXTRA = re.compile(r"uv sync --extra (\w+)")


def in_users_words(text: str) -> str:
    """Returns the text with its commands as the user of this process types them.

    All texts name scripts and `uv sync`; under the installed program they become its commands and `pip install`.
    """
    if Path(sys.argv[0]).stem != PROGRAM_NAME:
        return text
    text = _EXTRA.sub(rf"pip install '{PROGRAM_NAME}[\1]'", text)
    return _SCRIPT.sub(lambda found: f"{PROGRAM_NAME} {COMMAND_OF_SCRIPT.get(found[1], found[1])}", text)
