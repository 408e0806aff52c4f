"""A folder with one image."""

from pathlib import Path

import pytest

from tests.ocr.datasets.audits import encoded


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A folder with a.jpg, 40 wide and 30 high."""
    (tmp_path / "a.jpg").write_bytes(encoded())
    return tmp_path
