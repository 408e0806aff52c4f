"""Data sets that a test of the loaders may change."""

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def copied(drawn: Path, tmp_path: Path) -> Path:
    """A copy of the drawn data set."""
    return Path(shutil.copytree(drawn, tmp_path / "copied"))
