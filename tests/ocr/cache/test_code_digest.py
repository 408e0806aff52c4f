"""Which code is in the key of an entry: all that can change an entry, and no prose."""

import ast
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import ocr
from ocr.cache.key import MAKES_ENTRIES, code_digest

ROOT = Path(ocr.__file__).parents[1]
CANNOT_CHANGE_ENTRIES = {
    "ocr.atomic_write": "writes files of maps",
    "ocr.cache.statistics": "counts",
    "ocr.cache.budget": "how many entries lie where",
    "ocr.cache.files": "the format of a file names its version, and each file carries a checksum",
    "ocr.datasets.annotation_checks": "the polygons are in the key",
    "ocr.datasets.audit": "sizes, orientations and polygons are in the key",
    "ocr.datasets.audit_report": "findings of the audit",
    "ocr.datasets.formats": "the polygons are in the key",
    "ocr.datasets.image_checks": "sizes and orientations are in the key",
    "ocr.datasets.image_header": "sizes and orientations are in the key",
    "ocr.datasets.image_source": "the SHA-256 of an image is in the key",
    "ocr.datasets.manifest": "its values are in the key",
    "ocr.datasets.schemas": "settings are in the key by value",
    "ocr.datasets.shards": "the SHA-256 of an image is in the key, and checked on each read",
    "ocr.datasets.signature": "when to compute a SHA-256 again",
    "ocr.environment": "versions and this digest are in the key",
    "ocr.errors": "classes of errors",
    "ocr.loaders.batch": "what happens to a batch after the cache",
    "ocr.loaders.maker": "a contract",
    "ocr.machine": "free memory",
    "ocr.targets": "names of its modules' functions",
    "ocr.targets.config": "settings are in the key by value",
    "ocr.targets.offline": "serves what ocr.targets.maps would make, under a key of its own",
}
"""Modules and packages that the listed ones import, and why they are not listed."""


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


def reached(modules: list[str]) -> set[str]:
    """The modules and everything of this project that they import, directly or not."""
    found, waiting = set(), list(modules)
    while waiting:
        module = waiting.pop()
        if module not in found:
            found.add(module)
            waiting += imports_of(file_of(module))
    return found


def is_in(module: str, names: tuple[str, ...]) -> bool:
    """Whether a module is listed, or below a package that is."""
    return any(module == name or module.startswith(f"{name}.") for name in names)


def has_code(module: str) -> bool:
    return any(not isinstance(statement, ast.Expr) for statement in ast.parse(file_of(module).read_text()).body)


def test_all_that_makes_entries_is_listed_or_has_a_reason_not_to_be():
    modules = {module for module in reached(list(MAKES_ENTRIES)) if has_code(module)}
    known = (*MAKES_ENTRIES, "ocr.datasets.formats", "ocr.datasets.shards")  # of these all modules
    unknown = {module for module in modules - CANNOT_CHANGE_ENTRIES.keys() if not is_in(module, known)}
    assert unknown == set(), "list them in MAKES_ENTRIES, or say here why they cannot change an entry"


def test_listed_modules_are_there_and_no_reason_is_given_twice():
    for module in (*MAKES_ENTRIES, *CANNOT_CHANGE_ENTRIES):
        assert file_of(module) is not None, module
    assert not CANNOT_CHANGE_ENTRIES.keys() & set(MAKES_ENTRIES)


@pytest.fixture
def copied_code(tmp_path: Path) -> Path:
    for package in ("ocr", "dali_pipelines"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def append(file: Path, text: str) -> None:
    file.write_text(f"{file.read_text()}\n{text}\n")


def test_prose_anywhere_and_code_elsewhere_leave_all_entries_valid(copied_code):
    expected = code_digest(copied_code)
    for file in copied_code.rglob("*.py"):
        file.write_text(f'"""Other words."""\n# and others\n{file.read_text()}')
        module = ".".join(file.relative_to(copied_code).with_suffix("").parts)
        if not is_in(module, MAKES_ENTRIES):
            append(file, "CHANGED = 1")
    code_digest.cache_clear()
    assert code_digest(copied_code) == expected


def test_changed_code_of_any_listed_module_makes_all_entries_invalid(copied_code):
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
        ("ocr/datasets/plan.py", "scale = config.image_size / max(", "scale = config.image_size * max("),
    ],
)
def test_a_changed_filter_or_operator_makes_all_entries_invalid(module, old, new, copied_code):
    before = code_digest(copied_code)
    file = copied_code / module
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))
    code_digest.cache_clear()
    assert code_digest(copied_code) != before
