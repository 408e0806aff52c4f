import subprocess
import sys

from benchmarks.gpu_check.gpu_tests import outcomes, run

TESTS = """
import pytest

def test_good(): pass
def test_bad(): assert 1 == 2, "not equal"
def test_left_out(): pytest.skip("no data")
@pytest.fixture
def broken(): raise RuntimeError("no fixture")
def test_of_it(broken): pass
"""


def test_outcomes_are_told_by_name(tmp_path):
    (tmp_path / "test_some.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-q", "--junit-xml=found.xml", "-p", "no:cacheprovider", "test_some.py"]
    subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, timeout=60)
    found = outcomes(tmp_path / "found.xml")
    assert found["passed"] == ["test_some::test_good"]
    assert list(found["failed"]) == ["test_some::test_bad", "test_some::test_of_it"]
    assert "not equal" in found["failed"]["test_some::test_bad"]
    assert found["skipped"] == {"test_some::test_left_out": "no data"}


def test_a_crash_leaves_what_was_seen_before_it(tmp_path, capfd):
    crash = (
        "\n@pytest.mark.parametrize('x', ['a b'])\ndef test_with(x): pass\ndef test_crash(): import os; os._exit(3)\n"
    )
    (tmp_path / "test_some.py").write_text(TESTS + crash)
    kept = []
    command = [sys.executable, "-m", "pytest", "-v", "--junit-xml=found.xml", "-p", "no:cacheprovider", "test_some.py"]
    run(command, tmp_path, kept.append)
    assert not (tmp_path / "found.xml").exists()
    assert kept[-1]["passed"] == ["test_some.py::test_good", "test_some.py::test_with[a b]"]
    assert list(kept[-1]["failed"]) == ["test_some.py::test_bad", "test_some.py::test_of_it"]
    assert list(kept[-1]["skipped"]) == ["test_some.py::test_left_out"]
    assert "test_crash" in capfd.readouterr().out
