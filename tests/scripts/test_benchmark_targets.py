import json
import runpy
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts/benchmark_targets.py"


def test_benchmark_shows_every_way_and_records_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    annotations, results_file = tmp_path / "page.json", tmp_path / "results.json"
    words = {"0001": {"points": [[10, 10], [110, 10], [110, 40]]}, "0002": {"points": [[0, 50], [9, 50], [9, 60]]}}
    annotations.write_text(json.dumps({"images": {"page.jpg": {"img_w": 200, "img_h": 100, "words": words}}}))
    options = ["--size", "128", "--rounds", "2", "--random", "40", "--json", str(results_file)]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--annotations", str(annotations), *options])
    with pytest.raises(SystemExit) as status:
        runpy.run_path(str(SCRIPT), run_name="__main__")

    assert status.value.code == 0
    assert "compiled" in capsys.readouterr().out
    results = json.loads(results_file.read_text())
    assert {"device", "commit"} <= set(results)
    assert "torch" in results["versions"]
    assert [
        (row["polygon_set"], row["images"], row["polygons"], row["map_stride"]) for row in results["rows"][::3]
    ] == [
        ("drawn boxes", 1, 60, 1),
        (str(annotations), 1, 2, 1),
        ("random polygons", 2, 40, 1),
    ]
    for row in results["rows"]:
        assert all(len(times) == 2 for times in row["milliseconds_per_image"].values())
        assert row["agreement"]["compiled"]["box_pixels"] > 0
