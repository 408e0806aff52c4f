"""The import contracts in pyproject.toml, which `make check` runs: an import against the arrow breaks them."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    ("module", "imported"), [("dali_pipelines", "ocr.errors"), ("ocr/cache", "ocr.loaders"), ("ocr", "benchmarks")]
)
def test_an_import_against_the_arrow_is_named(module, imported, tmp_path):
    for package in ("benchmarks", "dali_pipelines", "ocr"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / module / "__init__.py").open("a") as file:
        file.write(f"\nimport {imported}\n")
    command = [
        sys.executable,
        "-c",
        "from importlinter.cli import lint_imports_command; lint_imports_command()",
        "--no-cache",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    source = module.replace("/", ".")
    assert f"{source} is not allowed to import {imported.partition('.errors')[0]}" in done.stdout
