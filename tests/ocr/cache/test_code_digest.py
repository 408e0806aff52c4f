"""The key of an entry contains all code that can change the entry, and no comments or docstrings."""

import ast
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import ocr
from ocr.cache.key import MAKES_ENTRIES, code_digest

ROOT = Path(ocr.__file__).parents[1]
CANNOT_CHANGE_ENTRIES = {
    "ocr.cache.budget": "decides where entries are kept, not what they hold",
    "ocr.cache.files": "each file carries the version of the format, and a checksum",
    "ocr.cache.host_memory": "allocates memory, and does not read or write it",
    "ocr.cache_statistics": "only counts",
    "ocr.datasets.epoch_order": "orders the samples of training, which has no entries",
    "ocr.datasets.items": "serves code that uses no loader, and has no entries on disk",
    "ocr.datasets.image_source": "the SHA-256 of what it reads is in the key",
    "ocr.datasets.manifest": "sizes, orientations and polygons are in the key",
    "ocr.datasets.schemas": "settings are in the key by value",
    "ocr.datasets.sets": "sizes, orientations and polygons are in the key",
    "ocr.datasets.shards.images": "the SHA-256 of an image is in the key, and checked on each read",
    "ocr.datasets.shards.read_ahead": "decides when an image is read, not what is read",
    "ocr.errors": "only error classes",
    "ocr.loaders.batch": "what happens to a batch after the cache",
    "ocr.loaders.read_guard": "decides whether a run ends; a batch that it makes again is made in the same way",
    "ocr.machine": "measures memory",
    "ocr.progress": "only shows how far a step is",
    "ocr.targets.config": "settings are in the key by value",
    "ocr.targets.offline": "serves what ocr.targets.maps would make, under a key of its own",
}
"""Modules that the listed modules import, and why neither they nor their own imports are listed."""


def file_of(module: str) -> Path | None:
    path = ROOT.joinpath(*module.split("."))
    candidates = [path / "__init__.py", path.with_suffix(".py")]
    return next((file for file in candidates if file.is_file()), None)


def imports_of(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            if name.split(".")[0] in ("ocr", "dali_pipelines") and file_of(name) is not None:
                yield name


def is_package(module: str) -> bool:
    """Returns whether the name is that of a package."""
    return ROOT.joinpath(*module.split(".")).is_dir()


def imported_by_makers() -> set[str]:
    """Returns the modules that the listed modules import, directly or indirectly."""
    found: set[str] = set()
    waiting = list(MAKES_ENTRIES)
    while waiting:
        for module in imports_of(file_of(waiting.pop())):
            if module not in found:
                found.add(module)
                waiting += [] if module in CANNOT_CHANGE_ENTRIES else [module]
    return found


def is_in(module: str, names: tuple[str, ...]) -> bool:
    """Returns whether a module, or a package that contains it, is listed."""
    return any(module == name or module.startswith(f"{name}.") for name in names)


def test_every_module_that_makes_entries_is_listed_or_excused():
    modules = {module for module in imported_by_makers() if not is_in(module, MAKES_ENTRIES) and not is_package(module)}
    assert modules - CANNOT_CHANGE_ENTRIES.keys() == set(), "list it, or say here why it cannot change an entry"
    assert CANNOT_CHANGE_ENTRIES.keys() - modules == set(), "remove it: it is no longer imported"


@pytest.fixture
def copied_code(tmp_path: Path) -> Path:
    for package in ("ocr", "dali_pipelines"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def append(file: Path, text: str) -> None:
    file.write_text(f"{file.read_text()}\n{text}\n")


def test_comments_and_unlisted_code_leave_all_entries_valid(copied_code):
    expected = code_digest(copied_code)
    for file in copied_code.rglob("*.py"):
        file.write_text(f'"""Other words."""\n# and others\n{file.read_text()}')
        module = ".".join(file.relative_to(copied_code).with_suffix("").parts)
        if not is_in(module, MAKES_ENTRIES):
            append(file, "CHANGED = 1")
    code_digest.cache_clear()
    assert code_digest(copied_code) == expected


def test_changed_code_in_any_listed_module_invalidates_all_entries(copied_code):
    digests = {code_digest(copied_code)}
    for name in MAKES_ENTRIES:
        place = copied_code.joinpath(*name.split("."))
        append(place / "config.py" if place.is_dir() else place.with_suffix(".py"), "CHANGED = 1")
        code_digest.cache_clear()
        digests.add(code_digest(copied_code))
    assert len(digests) == 1 + len(MAKES_ENTRIES)


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("dali_pipelines/steps.py", "INTERP_LINEAR", "INTERP_CUBIC"),
        ("ocr/datasets/plan.py", "scales = image_size / sizes.max(", "scales = image_size * sizes.max("),
    ],
)
def test_a_changed_filter_or_operator_invalidates_all_entries(module, old, new, copied_code):
    before = code_digest(copied_code)
    file = copied_code / module
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))
    code_digest.cache_clear()
    assert code_digest(copied_code) != before
