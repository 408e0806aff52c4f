"""Whole runs, composed as from the command line, with each preset and each cache setting: what they log and count."""

import logging
import re
from pathlib import Path

import numpy as np
import pytest

from ocr.command_line import compose_config, prepare
from ocr.config import TrainConfig
from ocr.errors import CacheError, InputError
from ocr.splits import build_dataset
from ocr.training.fit import train

NUM_VAL = 6
VAL = "datasets.val_dataset.config"


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data") / "synthetic"


def composed(root: Path, *overrides: str) -> TrainConfig:
    prepare()
    tiny = [
        f"dataset_base_path={root}",
        "synthetic.num_train=4",
        f"synthetic.num_val={NUM_VAL}",
        "device=cpu",
        "pipeline.image_size=128",
        "pipeline.augmentation.crop_size=128",
        "model.fpn_channels=16",
        "model.backbone.weights=null",
        "trainer.max_epochs=2",
        "trainer.check_val_every_n_epoch=1",
        "trainer.limit_train_batches=1",
        "logger.tensorboard=false",
        "logger.num_pictures=0",
    ]
    return compose_config(TrainConfig, "train", [*tiny, *overrides])


def run(root: Path, folder: Path, caplog: pytest.LogCaptureFixture, *overrides: str) -> tuple[list[dict], list[str]]:
    """The epochs of the run and its log."""
    caplog.clear()
    with caplog.at_level(logging.INFO):
        epochs = train(composed(root, *overrides), folder)["epochs"]
    return epochs, [record.getMessage() for record in caplog.records]


ALL_HIT = [(0, NUM_VAL), (NUM_VAL, 0)]
NO_CACHE = [(0, 0), (0, 0)]
SETTINGS = {
    "performance=baseline": NO_CACHE,
    "performance=constrained": ALL_HIT,
    "performance=balanced": ALL_HIT,
    "performance=max": ALL_HIT,
    f"{VAL}.cache_config.cache_images=false": ALL_HIT,
    f"{VAL}.cache_config.cache_maps=false": ALL_HIT,
    f"{VAL}.cache_config.cache_transformed_tensors=true": ALL_HIT,
}


@pytest.mark.parametrize(("override", "expected"), SETTINGS.items())
def test_each_setting_runs_as_written(data_root, tmp_path, caplog, override, expected):
    epochs, lines = run(data_root, tmp_path, caplog, override)
    assert [(epoch["cache_hits"], epoch["cache_misses"]) for epoch in epochs] == expected
    announced = f"Tensor caching enabled - will cache {NUM_VAL} transformed samples after first access"
    assert (announced in lines) == (expected == ALL_HIT)
    preloaded = f"Preloaded {NUM_VAL}/{NUM_VAL} images into RAM (100.0%)"
    is_preloaded = (
        override not in ("performance=baseline", "performance=constrained") and "cache_images" not in override
    )
    assert (preloaded in lines) == is_preloaded
    for epoch in epochs:
        assert (epoch["cache_bytes"] > 0) == (expected == ALL_HIT)
    assert epochs[1]["val_loss"] > 0


def test_statistics_are_logged_every_n_accesses_as_promised(data_root, tmp_path, caplog):
    _, lines = run(data_root, tmp_path, caplog, f"{VAL}.cache_config.log_statistics_every_n=4")
    statistics = [line for line in lines if line.startswith("Cache Statistics")]
    assert len(statistics) == 3  # of 12 accesses
    assert re.fullmatch(
        r"Cache Statistics - Hits: 6, Misses: 0, Hit Rate: 100\.0%, "
        r"Image Cache Size: 0, Tensor Cache Size: 6, Maps Cache Size: 0 \(this epoch; whole run: 6 of 12, 50\.0%\)",
        statistics[-1],
    )


def test_a_run_that_finds_everything_on_disk_has_no_misses(data_root, tmp_path, caplog):
    directory = f"{VAL}.cache_config.directory={tmp_path / 'cache'}"
    first, _ = run(data_root, tmp_path / "first", caplog, directory)
    second, _ = run(data_root, tmp_path / "second", caplog, directory)
    assert [(epoch["cache_hits"], epoch["cache_misses"]) for epoch in first] == ALL_HIT
    assert [(epoch["cache_hits"], epoch["cache_misses"]) for epoch in second] == [(NUM_VAL, 0), (NUM_VAL, 0)]
    for one, other in zip(first, second, strict=True):
        assert one["hmean"] == other["hmean"]
        assert one["val_loss"] == other["val_loss"]


def test_a_low_hit_rate_warns_after_the_first_epoch(data_root, tmp_path, caplog):
    _, lines = run(data_root, tmp_path, caplog, f"{VAL}.cache_config.ram_budget=400kB", "dataloader.eval_batch_size=2")
    warnings = [line for line in lines if "of the validation samples came from the cache" in line]
    assert warnings == [line for line in warnings if "only 33 %" in line or "only 67 %" in line]
    assert len(warnings) == 1


def test_inputs_can_be_made_before_the_first_epoch(data_root, tmp_path, caplog):
    epochs, _ = run(data_root, tmp_path, caplog, f"{VAL}.prenormalize_images=true")
    assert [(epoch["cache_hits"], epoch["cache_misses"]) for epoch in epochs] == [(NUM_VAL, 0), (NUM_VAL, 0)]


def test_verify_ends_a_run_whose_cache_was_altered_on_disk(data_root, tmp_path, caplog):
    directory = f"{VAL}.cache_config.directory={tmp_path / 'cache'}"
    run(data_root, tmp_path / "first", caplog, directory)
    for path in (tmp_path / "cache").iterdir():
        data = np.fromfile(path, np.uint8)
        data[-100] ^= 1
        data.tofile(path)
    with pytest.raises(CacheError, match=r"val_0000\d\.jpg"):
        run(data_root, tmp_path / "second", caplog, directory, f"{VAL}.cache_config.verify=8")


@pytest.mark.parametrize("loader", ["dali", "torch"])
@pytest.mark.parametrize("image_format", ["encoded", "decoded"])
def test_kept_training_images_leave_the_training_as_it_is(data_root, tmp_path, caplog, loader, image_format):
    plain, _ = run(data_root, tmp_path / "plain", caplog, f"loader={loader}", "trainer.limit_train_batches=null")
    train_set = "datasets.train_dataset.config"
    for name, overrides in {
        "preloaded": [f"{train_set}.preload_images=true", f"{train_set}.cache_config.image_format={image_format}"],
        "decoded": [f"{train_set}.cache_config.cache_decoded_images=true"],
    }.items():
        kept, _ = run(
            data_root, tmp_path / name, caplog, f"loader={loader}", "trainer.limit_train_batches=null", *overrides
        )
        assert [epoch["train_loss"] for epoch in kept] == [epoch["train_loss"] for epoch in plain], name


def test_maps_from_files_are_counted_and_those_that_do_not_fit_are_made(data_root, tmp_path, caplog):
    from ocr.targets.offline import maps_file, maps_key, write_maps

    config = composed(data_root)
    dataset = build_dataset(config.datasets.split("val"), config, training=False)
    from ocr.targets import make_targets

    for index, filename in enumerate(dataset.manifest.filenames[: NUM_VAL - 1]):
        polygons = dataset.planner.input_polygons(dataset.manifest, [dataset.planned(index)])
        maps = make_targets(polygons, (128, 128), config.targets)
        write_maps(maps_file(tmp_path / "maps", filename), maps, maps_key(polygons, (128, 128), config.targets))
    overrides = [f"{VAL}.load_maps=true", f"{VAL}.maps_path={tmp_path / 'maps'}"]
    plain, _ = run(data_root, tmp_path / "plain", caplog)
    loaded, lines = run(data_root, tmp_path / "loaded", caplog, *overrides, f"{VAL}.preload_maps=true")
    assert any(line.startswith("Fallback to on-the-fly generation: 1/6 samples (16.7%)") for line in lines)
    assert any(line.startswith(f"Preloaded {NUM_VAL - 1}/{NUM_VAL} maps into RAM") for line in lines)
    assert [epoch["val_loss"] for epoch in loaded] == [epoch["val_loss"] for epoch in plain]


@pytest.mark.parametrize("key", ["cache_config.cache_transformed_tensors", "load_maps"])
def test_what_cannot_be_kept_of_a_random_split_ends_the_run_before_it_starts(data_root, tmp_path, key):
    with pytest.raises(InputError, match=rf"{key}=true, but this pipeline crops"):
        train(composed(data_root, f"datasets.train_dataset.config.{key}=true"), tmp_path)
    assert not (tmp_path / "checkpoints").exists()


def test_it_is_the_pipeline_that_is_random_not_the_name_of_the_split(data_root):
    config = composed(data_root, "datasets.train_dataset.config.cache_config.cache_transformed_tensors=true")
    dataset = build_dataset(config.datasets.split("train"), config, training=False)
    assert len(dataset) == 4
