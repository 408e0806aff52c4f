import sys

import pytest
import torch

from benchmarks.environment import environment, environment_lines
from benchmarks.report import Report, Table


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> Report:
    """A report of the installed program."""
    monkeypatch.setattr(sys, "argv", ["/usr/bin/dali-dbnet", "data=upstage", "rows=[torch,spdl]"])
    facts = environment_lines(environment(torch.device("cpu"), "scripts/compare_loaders.py"), "inputs")
    table = Table("input", ("row", "images/s"), [["torch", "1"]], ["scripts/compare_loaders.py measures again"])
    why = ("Rows that cannot run", ["spdl: not installed: uv sync --extra bench"])
    conclusions = ("Verdict", ["Paste: uv run scripts/train.py loader=torch"])
    return Report("Loaders", facts, [table], why, "legend", conclusions, is_interrupted=False)


def test_the_installed_programs_report_names_commands_that_its_user_can_type(
    report: Report, capsys: pytest.CaptureFixture[str]
) -> None:
    report.print()
    for text in (report.markdown(), capsys.readouterr().out):
        assert "Paste: dali-dbnet train loader=torch" in text
        assert "pip install 'dali-dbnet[bench]'" in text
        assert "dali-dbnet compare measures again" in text
        assert "scripts/" not in text
    assert "command: `dali-dbnet compare data=upstage 'rows=[torch,spdl]'`" in report.markdown()
