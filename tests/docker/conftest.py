"""Files that the tests of this folder read."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def pyproject() -> str:
    """Text of pyproject.toml: Python 3.10 has no tomllib."""
    return (ROOT / "pyproject.toml").read_text()


@pytest.fixture(scope="session")
def python_versions(pyproject: str) -> list[str]:
    """Python versions that pyproject.toml claims, oldest first."""
    return re.findall(r'"Programming Language :: Python :: ([\d.]+)"', pyproject)
