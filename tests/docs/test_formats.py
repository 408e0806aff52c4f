"""The page of formats lists each format that is read."""

from pathlib import Path

import pytest

from ocr.datasets.formats.read import FORMATS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "formats.md"


@pytest.mark.parametrize("name", [one.name for one in FORMATS])
def test_each_format_has_a_row(name: str) -> None:
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    assert any(f"`{name}`" in row.split("|")[1] for row in rows)
