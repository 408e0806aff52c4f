import json
import sys
from pathlib import Path

import pytest

from benchmarks.recipes.__main__ import main


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "--checkpoint is needed for this recipe"),
        (["--checkpoint", "missing.ckpt"], "No such file or directory: 'missing.ckpt'"),
    ],
)
def test_a_missing_file_is_logged_and_the_status_says_so(
    given: list[str],
    message: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = tmp_path / "rows.json"
    command = ["--groups", "evaluation", "--only", "polygons", "--data", str(tmp_path), "--json", str(rows), *given]
    monkeypatch.setattr(sys, "argv", ["recipes", *command])
    with pytest.raises(SystemExit, match="2 rows could not be measured"):
        main()
    assert json.loads(rows.read_text())["rows"] == []
    errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert [error.split(":")[0] for error in errors] == ["evaluation, as trained", "evaluation, polygons"]
    assert all(error.endswith(message) for error in errors)
