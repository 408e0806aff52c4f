"""Docstrings: each package lists its modules and sub-packages, and none begins with a question."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = sorted(
    file.parent for top in ("dali_pipelines", "ocr", "benchmarks") for file in (ROOT / top).rglob("__init__.py")
)


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: str(package.relative_to(ROOT)))
def test_the_docstring_of_a_package_lists_its_modules(package: Path) -> None:
    text = ast.get_docstring(ast.parse((package / "__init__.py").read_text())) or ""
    if package == ROOT / "ocr":  # docs/architecture.md lists its folders
        text += (ROOT / "docs/architecture.md").read_text()
    modules = {file.stem for file in package.glob("*.py")} - {"__init__", "__main__"}
    folders = {file.parent.name for file in package.glob("*/__init__.py")}
    assert [name for name in sorted(modules | folders) if not re.search(rf"\b{name}\b", text)] == []


def test_each_docstring_names_its_subject() -> None:
    """None begins like a translation, with a question or with a pronoun for what stands above it."""
    opening = re.compile(r'^\s*"""(?:What|Of|Who|How|That|Those|It|Its|They) ', re.MULTILINE)
    files = [file for top in ("dali_pipelines", "ocr", "benchmarks", "tests") for file in (ROOT / top).rglob("*.py")]
    assert [str(file.relative_to(ROOT)) for file in files if opening.search(file.read_text())] == []
