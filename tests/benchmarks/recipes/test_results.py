from pathlib import Path

import pytest

from benchmarks.recipes.recipes import EVALUATION, FINE_TUNING, Group, Recipe
from benchmarks.recipes.report import conclusions, recipes_report
from benchmarks.recipes.results import Job, Results, is_measured, planned
from benchmarks.recipes.running import training_figures

BETTER, LOSER, OPEN = (Recipe(name, (f"a={name}",), "why") for name in ("winner", "loser", "open"))
GROUP = Group("training", "Training", "train", ("data=x",), Recipe("baseline", (), ""), (BETTER, LOSER, OPEN))

MACHINE = {"device": "CPU", "cores": 1, "ram_bytes": 1, "started": "", "commit": "", "command": ["a"], "versions": {}}


def row(recipe: Recipe, seed: int, receipts: float, scenes: float = 0.5) -> dict:
    scores = {"receipts": {"hmean": receipts, "hmean_iou0.7": 0.7}, "scenes": {"hmean": scenes, "hmean_iou0.7": 0.3}}
    return {"group": "training", "recipe": recipe.name, "seed": seed, "settings": settings(recipe), "scores": scores}


def settings(recipe: Recipe, checkpoint: str = "1") -> dict:
    return {"overrides": GROUP.overrides_of(recipe), "files": {"$checkpoint": checkpoint}}


@pytest.fixture
def results() -> Results:
    """Baseline with a range of 0.02 on receipts, 0.005 over all four scores; a winner, a loser, and one that is not clear."""
    rows = [row(GROUP.baseline, seed, value) for seed, value in ((1, 0.90), (2, 0.92))]
    return Results({}, [*rows, row(BETTER, 1, 0.96), row(LOSER, 1, 0.84), row(OPEN, 1, 0.91)])


def names(jobs) -> list[tuple[str, int]]:
    return [(job.recipe.name, job.seed) for job in jobs]


def test_differences_are_taken_at_the_same_seed(results: Results) -> None:
    results.put(row(OPEN, 2, 0.91))
    found = results.difference(GROUP, OPEN, "receipts 0.5")
    assert found is not None
    assert found.mean == pytest.approx(0.0)
    assert found.limit == pytest.approx(2 * 0.02 / 2**0.5)


def test_a_difference_is_clear_beyond_twice_the_range_of_the_baseline(results: Results) -> None:
    verdicts = {recipe.name: results.difference(GROUP, recipe, "all").verdict for recipe in GROUP.recipes}
    assert verdicts == {"winner": "better", "loser": "worse", "open": "not clear"}


def test_further_seeds_are_planned_where_the_difference_is_not_clear(results: Results) -> None:
    jobs = names(planned([GROUP], [1, 2], results))
    assert jobs[:5] == [("baseline", 1), ("baseline", 2), ("winner", 1), ("loser", 1), ("open", 1)]
    assert jobs[5:] == [("open", 2)]


def test_rows_without_a_spread_get_no_verdict_and_no_further_seeds() -> None:
    results = Results({}, [row(GROUP.baseline, 1, 0.9), row(BETTER, 1, 0.99)])
    assert results.difference(GROUP, BETTER, "all").verdict == "not clear"
    assert results.difference(GROUP, LOSER, "all") is None


def test_rows_are_kept_and_changed_settings_are_measured_again(tmp_path: Path, results: Results) -> None:
    results.save(tmp_path / "rows.json")
    loaded = Results.load(tmp_path / "rows.json", {})
    assert loaded.rows == results.rows
    assert is_measured(loaded, Job(GROUP, BETTER, 1), settings(BETTER))
    assert not is_measured(loaded, Job(GROUP, BETTER, 2), settings(BETTER))
    assert not is_measured(loaded, Job(GROUP, BETTER, 1), settings(LOSER))
    assert not is_measured(loaded, Job(GROUP, BETTER, 1), settings(BETTER, checkpoint="2"))
    loaded.put(row(BETTER, 1, 0.5))
    assert len(loaded.rows) == len(results.rows)
    assert Results.load(tmp_path / "none.json", {}).rows == []


def test_rows_of_other_settings_and_files_are_not_compared(results: Results) -> None:
    results.put(row(BETTER, 1, 0.99) | {"settings": settings(BETTER, checkpoint="2")})
    assert results.difference(GROUP, BETTER, "all") is None
    assert len(results.rows_of(GROUP, BETTER)) == 1
    results.put(row(BETTER, 2, 0.99))
    assert [one["seed"] for one in results.rows_of(GROUP, BETTER)] == [2]
    results.put(row(LOSER, 1, 0.99) | {"settings": settings(BETTER)})
    assert results.rows_of(GROUP, LOSER) == []


def test_the_conclusions_tell_winners_losers_and_what_is_missing(results: Results) -> None:
    results.rows = [one for one in results.rows if one["recipe"] != "open"]
    text = conclusions(results, GROUP)
    assert "the baseline varies by 0.0050 over seeds 1, 2" in text[0]
    assert text[1:] == [
        "Training, better: winner (+0.0150).",
        "Training, worse: loser (-0.0150).",
        "Training, not measured yet: open.",
    ]


def test_times_count_the_share_of_the_core() -> None:
    plain = {"train_seconds": 100.0, "train_images_per_second": 4.0}
    validated = plain | {"epoch": 1, "val_seconds": 30.0, "hmean": 0.9, "hmean_iou0.7": 0.8}
    found = training_figures(
        {"epochs": [plain | {"epoch": 0}, validated]}, core_share=0.5, num_pages=60, images="scenes"
    )
    assert found["images"] == 800
    assert found["image_cpu_ms"] == 125
    assert found["page_cpu_ms"] == 250
    scores = {"scenes": {"hmean": 0.9, "hmean_iou0.7": 0.8}}
    assert found["curve"] == [{"epoch": 2, "images": 800, "scores": scores}]
    assert found["scores"] == scores


def test_the_report_has_losers_curves_and_the_ratio_of_times(results: Results) -> None:
    baseline, tuned = FINE_TUNING.baseline, FINE_TUNING.recipes[0]
    curve = [{"epoch": 2, "images": 100, "scores": {"receipts": {"hmean": 0.8, "hmean_iou0.7": 0.6}}}]
    for recipe, seconds in ((baseline, 400.0), (tuned, 90.0)):
        scores = {"receipts": {"hmean": seconds / 1000, "hmean_iou0.7": 0.7}}
        overrides = {"overrides": FINE_TUNING.overrides_of(recipe), "files": {"$start": "1"}}
        key = {"group": FINE_TUNING.name, "recipe": recipe.name, "seed": 1, "settings": overrides, "scores": scores}
        results.put(key | {"curve": curve, "image_cpu_ms": 150.0, "cpu_seconds": seconds})
    start = {"overrides": EVALUATION.overrides_of(EVALUATION.baseline), "files": {"$checkpoint": "1"}}
    scores = {name: {"hmean": 0.75, "hmean_iou0.7": 0.65} for name in ("receipts", "scenes")}
    results.put({"group": "evaluation", "recipe": "as trained", "seed": 0, "settings": start, "scores": scores})
    results.environment = MACHINE
    text = recipes_report(results, ["a note"]).markdown()
    before = "Before the fine-tuning, the trained detector has 0.7500 (receipts 0.5), 0.6500 (receipts 0.7)."
    assert f"The ratio of the times is 0.23. {before}" in text
    assert f"| {tuned.name} | 1 | 0.0900 (-0.3100) | 0.7000 (+0.0000) |" in text
    assert f"| {tuned.name} | 100 | 15 | 0.8000 [0.8000-0.8000] |" in text
    assert "- a note" in text
    results.rows = [row | {"cpu_seconds": 390.0} for row in results.rows]
    assert "The ratio of the times" not in recipes_report(results, []).markdown()


def test_an_empty_report_has_no_table() -> None:
    machine = {
        "device": "CPU",
        "cores": 1,
        "ram_bytes": 1,
        "started": "",
        "commit": "",
        "command": ["a"],
        "versions": {},
    }
    assert recipes_report(Results(machine), []).tables == []
