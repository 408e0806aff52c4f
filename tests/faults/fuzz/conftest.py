from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fuzz")
    group.addoption(
        "--fuzz-seconds", type=float, default=0, help="feed the readers broken files for this time; see make fuzz"
    )
    group.addoption("--fuzz-seed", type=int, default=0, help="first seed of the broken files")
    group.addoption(
        "--fuzz-folder", type=Path, default=Path("outputs/fuzz"), help="where counts and inputs at fault are kept"
    )
    group.addoption("--fuzz-readers", default="", help="a part of the names of the readers; all without it")
