"""The GPU check as a user starts it, in its short form, without a GPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "gpu_check.sh"


def gpu_check(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    without_path = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment = without_path | {"PYTHON": sys.executable}
    return subprocess.run([SCRIPT, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=280)


def test_the_short_form_passes_and_writes_both_files(tmp_path):
    done = gpu_check("--cpu", "--short", "--output", "found", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    document = json.loads((tmp_path / "found" / "gpu_check.json").read_text())
    steps = {step["name"]: step for step in document["steps"]}
    assert {name: step["status"] for name, step in steps.items()} == {
        "environment": "told",
        "decode": "passed",
        "host_sync": "passed",
        "streams": "passed",
        "damaged": "passed",
    }
    assert steps["environment"]["figures"]["versions"]["torch"]
    lines = [line for step in steps.values() for line in step["lines"]]
    assert all({"what", "found", "asked", "passed", "explained"} <= line.keys() for line in lines)
    assert sum(line["passed"] is True for line in lines) == 15
    assert {row["sampling"] for row in steps["decode"]["figures"]["rows"]} >= {"4:2:0", "4:4:0", "4:1:1", "grey"}
    assert [run["steps"] for run in steps["host_sync"]["figures"]["runs"]] == [3]
    text = (tmp_path / "found" / "gpu_check.md").read_text()
    assert text.startswith("# GPU check without a GPU\n")
    assert "Steps: 4 passed, 1 told. Lines asked: 15 of 15 passed." in text
    for line in lines:
        assert line["what"] in text
    assert "1/5 environment" in done.stderr
    assert "streams: passed in" in done.stderr
