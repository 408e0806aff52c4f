import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.host import launching, step, timing, validation
from benchmarks.host.planning import PlanningTimes
from benchmarks.host.report import HostResults, Limit, limits
from benchmarks.host.timing import FREE_NANOSECONDS, Timing, share_held, summed
from benchmarks.host.workloads import Workload, read_split, resized, tripled


def test_every_section_reports_positive_figures_beside_their_limits(
    tmp_path: Path, drawn: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("triton", reason="Triton is not installed: PyTorch is a build without CUDA")
    for module, constant, short in (
        (timing, "GIL_SAMPLES", 5),
        (launching, "MIN_BATCHES", 5),
        (step, "NUM_STEPS", 12),
        (validation, "SIZES", (160, 320)),
        (validation, "NUM_IMAGES", 2),
    ):
        monkeypatch.setattr(module, constant, short)
    results_file, report_file = tmp_path / "host.json", tmp_path / "host.md"
    folders = ["--receipts", str(drawn), "--scenes", str(drawn)]
    sizes = ["--sizes", "20", "--batch-size", "2", "--repeats", "2"]
    files = ["--json", str(results_file), "--markdown", str(report_file)]
    monkeypatch.setattr(sys, "argv", ["host", *folders, *sizes, *files])
    with pytest.raises(SystemExit) as status:
        runpy.run_module("benchmarks.host", run_name="__main__")

    assert status.value.code in (0, 1)
    assert "Lightning and hooks" in capsys.readouterr().out
    results = json.loads(results_file.read_text())
    assert {"device", "commit", "versions"} <= set(results)
    for section in ("planning", "launching"):
        assert [row["workload"] for row in results[section]] == ["receipts", "receipts, tripled", "scenes"]
    timings = [part for row in results["planning"] + results["validation"] for part in row["parts"].values()]
    timings += [part for row in results["launching"] for name, part in row["parts"].items() if name == "sources"]
    assert all(len(timing["microseconds"]) == 2 and min(timing["microseconds"]) > 0 for timing in timings)
    assert all(timing["gil_share"] is None or 0 <= timing["gil_share"] <= 1 for timing in timings)
    assert len(results["step"]["lightning"]) == 2
    assert min(results["step"]["lightning"]) > min(results["step"]["bare"]) > 0
    assert [row["size"] for row in results["validation"]] == [160, 320, 160, 320]
    assert {limit["what"] for limit in results["limits"]} >= {
        "plan, polygons and outlines, receipts",
        "launching thread, scenes",
        "Lightning and hooks, a step",
    }
    assert report_file.read_text().startswith("# Host")


def test_a_larger_manifest_repeats_the_images_with_their_polygons(drawn: Path) -> None:
    manifest = read_split(drawn, "train")
    larger = resized(manifest, 2 * len(manifest) + 3)
    repeated = np.resize(np.arange(len(manifest)), len(larger))
    expected = manifest.polygons.select(repeated)

    assert Workload("drawn", manifest).fitting([160, 10**9]) == [160]
    assert larger.image_paths == tuple(manifest.image_paths[index] for index in repeated)
    np.testing.assert_array_equal(larger.original_sizes, manifest.original_sizes[repeated])
    for name in ("vertices", "vertex_starts", "polygon_starts", "ignore"):
        np.testing.assert_array_equal(getattr(larger.polygons, name), getattr(expected, name))


def test_tripled_polygons_stay_with_their_image(drawn: Path) -> None:
    polygons = read_split(drawn, "train").polygons
    more = tripled(polygons)
    for image in range(len(polygons)):
        expected = 3 * polygons.polygons_of(image)
        assert len(more.polygons_of(image)) == len(expected)
        for found, original in zip(more.polygons_of(image), expected, strict=True):
            np.testing.assert_array_equal(found, original)


def test_only_long_waits_count_as_a_held_gil() -> None:
    assert share_held([FREE_NANOSECONDS, FREE_NANOSECONDS + 1, 100, 90_000]) == 0.5
    assert share_held([]) == 0.0


def test_the_rate_is_limited_by_the_cores_or_by_the_gil() -> None:
    assert Timing([4000.0], gil_share=0.01).most_per_second == pytest.approx(16 / 4e-3)
    assert Timing([4000.0], gil_share=0.25).most_per_second == pytest.approx(1 / 1e-3)
    assert Timing([2000.0]).most_per_second == pytest.approx(16 / 2e-3)


def test_parts_are_summed_round_by_round() -> None:
    assert summed([Timing([1.0, 2.0, 9.0]), Timing([10.0, 20.0, 0.0])]).microseconds == [11.0, 22.0, 9.0]


def test_a_larger_split_may_take_a_tenth_longer() -> None:
    rows = [
        PlanningTimes("scenes", images, 15.0, {"plan": Timing([microseconds])})
        for images, microseconds in ((1_000_000, 34.0), (160, 30.0))
    ]
    small, growth = limits(HostResults({}, 16, planning=rows))
    assert small.holds
    assert small.found == 30.0
    assert growth.cells(None) == [
        "plan, polygons and outlines, scenes, 1,000,000 images against 160",
        "",
        "1.13",
        "<= 1.1 times",
        "MISSED",
    ]


def test_limits_stand_beside_the_figures_before() -> None:
    assert Limit("plan", 59.96, 60.0, "us").cells(280.04) == ["plan", "280.0", "60.0", "<= 60 us", "holds"]
    assert Limit("step", 0.61, 0.6, "ms").cells(1.39) == ["step", "1.39", "0.61", "<= 0.6 ms", "MISSED"]
    upwards = Limit("validation", 2600.4, 2500, "images/s", is_smallest=True)
    assert upwards.cells(None) == ["validation", "", "2,600", ">= 2,500 images/s", "holds"]
