"""The GPU checks as a user starts them, in their short form, without a GPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "gpu_check.sh"


def test_the_short_form_passes_and_writes_both_reports(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [SCRIPT, "--cpu", "--short", "--output", "found"],
        cwd=tmp_path,
        env=environment | {"PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    assert "1/5 environment" in done.stderr
    checks = {each["name"]: each for each in json.loads((tmp_path / "found" / "gpu_check.json").read_text())["checks"]}
    assert {name: check["status"] for name, check in checks.items()} == dict.fromkeys(
        ("environment", "decode", "host_sync", "streams", "damaged"), "passed"
    )
    figures = {
        name: [figure for test in check["tests"].values() for figure in test["figures"]]
        for name, check in checks.items()
    }
    asked = [figure["passed"] for own in figures.values() for figure in own if "passed" in figure]
    assert asked == [True] * 21
    assert next(each["value"] for each in figures["environment"] if each["name"] == "versions")["torch"]
    assert {"name": "steps watched", "value": 3, "unit": "", "asked": "at least 1", "passed": True} in figures[
        "host_sync"
    ]
    text = (tmp_path / "found" / "gpu_check.md").read_text()
    assert text.startswith("# GPU check without a GPU\n")
    assert "Checks: 5 passed. Figures with a limit: 21 of 21 within it." in text
    assert "| decode[4:2:0] | mean difference from Pillow | 0 levels | at most 0 levels | yes |" in text
