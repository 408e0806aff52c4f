import subprocess
import sys

from ocr.gpu_check.gpu_tests import outcomes

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
