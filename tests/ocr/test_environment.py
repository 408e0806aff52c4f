import subprocess
from pathlib import Path

import ocr.environment
from ocr.environment import git_commit


def test_a_checkout_tells_its_commit():
    command = ["git", "rev-parse", "HEAD"]
    head = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True).stdout.strip()
    assert (git_commit() or "").removesuffix("-dirty") == head


def test_outside_of_a_checkout_an_image_tells_it(tmp_path, monkeypatch):
    monkeypatch.setattr(ocr.environment, "__file__", str(tmp_path / "environment.py"))
    monkeypatch.delenv("DALI_DBNET_COMMIT", raising=False)
    assert git_commit() is None
    monkeypatch.setenv("DALI_DBNET_COMMIT", "abc")
    assert git_commit() == "abc"
