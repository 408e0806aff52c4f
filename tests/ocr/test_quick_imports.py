"""Imports without garbage collection; what they make is left out of later collections."""

import gc
import importlib
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest

from ocr.quick_imports import quick_imports


@pytest.fixture
def collections() -> Iterator[list[str]]:
    """Phases of the collections so far."""
    phases: list[str] = []

    def note(phase: str, _: dict[str, int]) -> None:
        phases.append(phase)

    gc.callbacks.append(note)
    yield phases
    gc.callbacks.remove(note)


def make_many() -> list[list[int]]:
    return [[number] for number in range(10_000)]


def test_nothing_is_collected_while_libraries_are_imported(
    collections: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "large_library.py").write_text("MADE = [[number] for number in range(10_000)]")
    monkeypatch.syspath_prepend(tmp_path)
    before, frozen = len(collections), gc.get_freeze_count()
    with quick_imports():
        made = importlib.import_module("large_library").MADE
    assert len(collections) == before
    assert gc.get_freeze_count() >= frozen + len(made)
    assert gc.isenabled()
    made = make_many()
    assert len(collections) > before


def test_what_an_earlier_run_has_left_is_collected_although_the_next_one_imports_again() -> None:
    class Run:
        def __init__(self) -> None:
            self.trainer = self

    run = weakref.ref(Run())
    with quick_imports():
        import ocr.quick_imports  # noqa: F401
    gc.collect()
    assert run() is None


def test_collection_stays_off_where_it_was_off() -> None:
    gc.disable()
    try:
        with quick_imports():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_it_is_on_again_after_an_import_that_fails() -> None:
    with pytest.raises(ModuleNotFoundError), quick_imports():
        import no_such_module  # noqa: F401
    assert gc.isenabled()


def test_libraries_have_nothing_to_say_when_a_command_ends() -> None:
    pytest.importorskip("triton")
    code = "from ocr.quick_imports import quick_imports\nwith quick_imports():\n    import triton.language"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout + ended.stderr == ""
