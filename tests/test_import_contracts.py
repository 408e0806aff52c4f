"""The import contracts in pyproject.toml, which `make check` runs: an import against the arrow breaks them."""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
AGAINST_THE_ARROW = {"dali_pipelines": "ocr.errors", "ocr/cache": "ocr.loaders", "ocr": "benchmarks"}


def test_imports_against_the_arrow_are_named(tmp_path):
    for package in ("benchmarks", "dali_pipelines", "ocr"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for module, imported in AGAINST_THE_ARROW.items():
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
    for module, imported in AGAINST_THE_ARROW.items():
        source = module.replace("/", ".")
        assert f"{source} is not allowed to import {imported.partition('.errors')[0]}" in done.stdout
