from pathlib import Path

import pytest

from benchmarks.recipes.__main__ import _measure
from benchmarks.recipes.inputs import Places
from benchmarks.recipes.recipes import EVALUATION
from benchmarks.recipes.results import Job, Results


@pytest.mark.parametrize(
    ("checkpoint", "message"),
    [
        (None, "--checkpoint is needed for this recipe"),
        (Path("missing.ckpt"), "No such file or directory: 'missing.ckpt'"),
    ],
)
def test_a_missing_file_is_logged_and_other_recipes_go_on(
    checkpoint: Path | None, message: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    places = Places(data=tmp_path, weights=None, work=tmp_path, checkpoint=checkpoint, start=None)
    results = Results({})
    _measure(Job(EVALUATION, EVALUATION.baseline, 0), places, results)
    assert results.rows == []
    assert caplog.messages[0].startswith("evaluation, as trained: ")
    assert caplog.messages[0].endswith(message)
