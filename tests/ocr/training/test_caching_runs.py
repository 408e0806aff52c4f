"""Whole runs with each preset and each cache setting: what they log and count."""

import logging
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ocr.errors import CacheError, InputError
from ocr.splits import build_dataset
from ocr.targets.maps import make_targets
from ocr.targets.offline import maps_file, maps_key, write_maps
from ocr.training.fit import train

NUM_VAL = 8
VAL = "datasets.val_dataset.config"
TRAIN = "datasets.train_dataset.config"

Run = Callable[..., tuple[list[dict], list[str]]]


@pytest.fixture
def run(tiny_run, caplog: pytest.LogCaptureFixture) -> Run:
    """Runs two epochs of one training step; returns the figures of the epochs and the log."""

    def train_once(folder: Path, *overrides: str) -> tuple[list[dict], list[str]]:
        caplog.clear()
        with caplog.at_level(logging.INFO):
            epochs = train(tiny_run("trainer.limit_train_batches=1", *overrides), folder)["epochs"]
        return epochs, [record.getMessage() for record in caplog.records]

    return train_once


def hits_and_misses(epochs: list[dict]) -> list[tuple[int, int]]:
    return [(epoch["cache_hits"], epoch["cache_misses"]) for epoch in epochs]


FILLED_FIRST = [(0, NUM_VAL), (NUM_VAL, 0)]
ALL_HITS = [(NUM_VAL, 0), (NUM_VAL, 0)]
NO_CACHE = [(0, 0), (0, 0)]
SETTINGS = {
    "performance=baseline": NO_CACHE,
    "performance=constrained": FILLED_FIRST,
    "performance=balanced": FILLED_FIRST,
    "performance=max": FILLED_FIRST,
    f"{VAL}.cache_config.cache_images=false": FILLED_FIRST,
    f"{VAL}.cache_config.cache_maps=false": FILLED_FIRST,
    f"{VAL}.prenormalize_images=true": ALL_HITS,
}


@pytest.mark.parametrize(("override", "expected"), SETTINGS.items())
def test_each_setting_runs_as_written(run, tmp_path, override, expected):
    epochs, lines = run(tmp_path, override)
    assert hits_and_misses(epochs) == expected
    announced = f"Tensor caching enabled - will cache {NUM_VAL} transformed samples after first access"
    assert (announced in lines) == (expected != NO_CACHE)
    preloaded = f"Preloaded {NUM_VAL}/{NUM_VAL} images into RAM (100.0%)"
    reads_files = override in ("performance=baseline", "performance=constrained") or "cache_images" in override
    assert (preloaded in lines) != reads_files
    for epoch in epochs:
        assert (epoch["cache_bytes"] > 0) == (expected != NO_CACHE)
    assert epochs[1]["val_loss"] > 0


def test_statistics_are_logged_every_n_accesses_as_promised(run, tmp_path):
    _, lines = run(tmp_path, f"{VAL}.cache_config.log_statistics_every_n=5")
    statistics = [line for line in lines if line.startswith("Cache Statistics")]
    assert len(statistics) == 3  # of 16 accesses
    for line in statistics:
        assert re.match(r"Cache Statistics - Hits: \d+, Misses: \d+, Hit Rate: \d+\.\d%", line)
    assert "Tensor Cache Size: 8, Maps Cache Size: 0 (this epoch; whole run: " in statistics[-1]


def test_by_default_statistics_are_logged_when_the_hit_rate_changes(run, tmp_path):
    _, lines = run(tmp_path, "trainer.max_epochs=4")
    (line,) = (line for line in lines if line.startswith("Cache Statistics"))
    assert line.startswith("Cache Statistics - Hits: 8, Misses: 0, Hit Rate: 100.0%")  # of the second epoch


def test_entries_on_disk_serve_the_next_run_and_verify_finds_altered_ones(run, tmp_path):
    directory = f"{VAL}.cache_config.directory={tmp_path / 'cache'}"
    first, _ = run(tmp_path / "first", directory)
    second, _ = run(tmp_path / "second", directory)
    assert hits_and_misses(first) == FILLED_FIRST
    assert hits_and_misses(second) == ALL_HITS
    for one, other in zip(first, second, strict=True):
        assert one["hmean"] == other["hmean"]
        assert one["val_loss"] == other["val_loss"]
    for path in (tmp_path / "cache").iterdir():
        data = np.fromfile(path, np.uint8)
        data[-100] ^= 1
        data.tofile(path)
    with pytest.raises(CacheError, match=r"val_0000\d\.jpg"):
        run(tmp_path / "third", directory, f"{VAL}.cache_config.verify=8")


def test_a_low_hit_rate_warns_once_after_the_first_epoch(run, tmp_path):
    half = 4 * (2 * 3 + 3 + 2) * 96 * 96
    small = (f"{VAL}.cache_config.ram_budget={half}", f"{VAL}.preload_images=false", "trainer.max_epochs=3")
    _, lines = run(tmp_path, *small)
    warnings = [line for line in lines if "of the validation samples came from the cache" in line]
    assert len(warnings) == 1
    assert "only 50 %" in warnings[0]


@pytest.mark.parametrize("loader", ["dali", "torch"])
def test_images_kept_in_memory_leave_the_training_as_it_is(run, tmp_path, loader):
    whole_epochs = [f"loader={loader}", "trainer.limit_train_batches=null", "dataloader.batch_size=5"]
    plain, _ = run(tmp_path / "plain", *whole_epochs)
    for name, overrides in {
        "preloaded files": [f"{TRAIN}.preload_images=true"],
        "preloaded pixels": [f"{TRAIN}.preload_images=true", f"{TRAIN}.cache_config.image_format=decoded"],
        "decoded images": [f"{TRAIN}.cache_config.cache_decoded_images=true"],
    }.items():
        kept, _ = run(tmp_path / name, *whole_epochs, *overrides)
        assert [epoch["train_loss"] for epoch in kept] == [epoch["train_loss"] for epoch in plain], name


def test_maps_from_files_are_counted_and_missing_ones_are_made(run, tiny_run, tmp_path):
    config = tiny_run()
    dataset = build_dataset(config.datasets.split("val"), config, training=False)
    for index, filename in enumerate(dataset.manifest.filenames[: NUM_VAL - 1]):
        polygons = dataset.planner.input_polygons(dataset.manifest, dataset.planned([index]))
        maps = make_targets(polygons, (96, 96), config.targets)
        write_maps(maps_file(tmp_path / "maps", filename), maps, maps_key(polygons, (96, 96), config.targets))
    plain, _ = run(tmp_path / "plain")
    from_files = [f"{VAL}.load_maps=true", f"{VAL}.maps_path={tmp_path / 'maps'}", f"{VAL}.preload_maps=true"]
    loaded, lines = run(tmp_path / "loaded", *from_files)
    assert any(line.startswith("Fallback to on-the-fly generation: 1/8 samples (12.5%)") for line in lines)
    assert any(line.startswith(f"Preloaded {NUM_VAL - 1}/{NUM_VAL} maps into RAM") for line in lines)
    assert [epoch["val_loss"] for epoch in loaded] == [epoch["val_loss"] for epoch in plain]


@pytest.mark.parametrize("key", ["cache_config.cache_transformed_tensors", "load_maps"])
def test_results_of_a_random_split_cannot_be_kept_and_end_the_run_at_once(tiny_run, tmp_path, key):
    with pytest.raises(InputError, match=rf"{key}=true, but this pipeline crops"):
        train(tiny_run(f"{TRAIN}.{key}=true"), tmp_path)
    assert not (tmp_path / "checkpoints").exists()


def test_the_pipeline_is_random_or_not_whatever_the_split_is_called(tiny_run):
    config = tiny_run(f"{TRAIN}.cache_config.cache_transformed_tensors=true")
    assert len(build_dataset(config.datasets.split("train"), config, training=False)) == 10
