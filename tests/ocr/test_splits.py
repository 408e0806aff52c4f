"""`build_dataset` refuses shards without images and warns of settings without effect and of newer annotations."""

import logging
import os
import shutil
from pathlib import Path

import pytest

from benchmarks.loaders.splits import load_split
from ocr.command_line import compose_config
from ocr.config import PrepareConfig, TrainConfig
from ocr.datasets.audit import load_manifest
from ocr.datasets.manifest import Manifest
from ocr.datasets.schemas import DatasetConfig
from ocr.datasets.shards.writer import ShardWriter
from ocr.errors import InputError
from ocr.preparation.prepare import prepare_data
from ocr.splits import build_dataset


def run_on(**values) -> TrainConfig:
    return TrainConfig.model_validate({"loader": "webdataset", **values})


def split_in(root: Path, **values) -> DatasetConfig:
    places = {"image_path": root / "images/train", "annotation_path": root / "jsons/train.json"}
    places["shards"] = root / "shards/train"
    return DatasetConfig(**{key: str(path) for key, path in places.items()} | values)


def test_settings_of_loose_files_are_named_where_shards_are_read(copied_receipts, caplog):
    build_dataset(split_in(copied_receipts), run_on(), training=True)
    assert "ignored" not in caplog.text
    split = split_in(copied_receipts, image_path="/does_not_exist", check_pixels=False)
    build_dataset(split, run_on(), training=True)
    assert (
        "shards/train: these settings are ignored: check_pixels, image_path=/does_not_exist (loader=webd" in caplog.text
    )


def test_a_reader_of_shards_is_named_where_files_are_read(copied_receipts, caplog):
    config = run_on(loader="dali", dataloader={"shard_reader": "webdataset"})
    build_dataset(split_in(copied_receipts), config, training=True)
    assert "dataloader.shard_reader=webdataset is ignored: loader=dali reads no shards" in caplog.text


def test_annotations_that_are_newer_than_the_shards_are_named(drawn, tmp_path, prepare, caplog):
    root = shutil.copytree(drawn, tmp_path / "own")
    annotations, index = root / "jsons/train.json", root / "shards/train/index.columns"

    def warnings() -> list[str]:
        caplog.clear()
        build_dataset(split_in(root), run_on(), training=True)
        return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]

    prepare(root, root, canonical=False)
    assert warnings() == []
    os.utime(annotations, ns=(0, index.stat().st_mtime_ns + 10**9))
    (said,) = warnings()
    assert said.startswith(f"{annotations} is newer than {index}")
    os.utime(annotations)
    prepare(root, root, canonical=False)  # records that nothing has changed
    assert warnings() == []


def test_preparing_again_without_shards_leaves_annotations_older_than_them(drawn, tmp_path, prepare, caplog):
    for shards in (True, False):
        prepare(drawn, tmp_path / "out", shards=shards)
    build_dataset(split_in(tmp_path / "out"), run_on(), training=True)
    assert "newer than" not in caplog.text


def test_shards_without_images_are_named(copied_receipts, tmp_path):
    config = DatasetConfig(image_path=str(copied_receipts / "images/train"))
    some = load_manifest(config, max_megapixels=100)[0]
    none = Manifest(
        (), (), some.sample_ids[:0], some.stored_sizes[:0], some.orientations[:0], some.polygons.select([]), 1
    )
    ShardWriter(none, tmp_path / "none", "train", 10**9).finish()
    with pytest.raises(InputError, match=r"/none: these shards hold no image; write them again"):
        build_dataset(split_in(copied_receipts, shards=str(tmp_path / "none")), run_on(), training=True)


@pytest.mark.parametrize(
    ("cache", "scales"),
    [
        ({}, True),
        ({"preload_images": True}, True),
        ({"cache_config": {"cache_decoded_images": True}}, False),
        ({"preload_images": True, "cache_config": {"image_format": "decoded"}}, False),
    ],
    ids=["files", "preloaded files", "kept pixels", "preloaded pixels"],
)
def test_a_split_that_keeps_decoded_images_decodes_them_whole(cache, scales, drawn, caplog):
    split = DatasetConfig.model_validate(
        {"image_path": str(drawn / "images/train"), "annotation_path": str(drawn / "jsons/train.json"), **cache}
    )
    config = run_on(loader="dali", pipeline={"scaled_decode": True})
    with caplog.at_level(logging.INFO):
        dataset = build_dataset(split, config, training=True)
    assert dataset.planner.config.scaled_decode is scales
    assert ("pipeline.scaled_decode is ignored" in caplog.text) is not scales


def error_of(*overrides: str) -> str:
    config = compose_config(TrainConfig, "train", overrides)
    with pytest.raises(FileNotFoundError) as error:
        build_dataset(config.datasets.split("train"), config, training=True)
    return str(error.value)


def test_a_wrong_layout_is_answered_with_the_one_that_the_folder_looks_like(drawn):
    said = error_of("data=icdar", f"dataset_base_path={drawn}")
    missing = drawn / "ch4_training_localization_transcription_gt"
    assert said == (
        f"{missing}: there is no such annotation file or folder; {drawn} looks like Upstage JSON: data=upstage"
    )


def test_preparation_and_benchmark_answer_as_training_does(drawn, tmp_path):
    places = ("data=icdar", f"dataset_base_path={drawn}")
    said = error_of(*places)
    config = compose_config(PrepareConfig, "prepare_data", (*places, f"output={tmp_path}/out", "splits=[train]"))
    with pytest.raises(FileNotFoundError) as error:
        prepare_data(config, tmp_path)
    assert str(error.value) == said
    with pytest.raises(FileNotFoundError) as error:
        load_split(compose_config(TrainConfig, "train", places), "train", tmp_path)
    assert str(error.value) == said


def test_a_missing_folder_of_images_is_answered_too(drawn, tmp_path):
    shutil.copytree(drawn / "jsons", tmp_path / "jsons")
    said = error_of("data=upstage", f"dataset_base_path={tmp_path}")
    assert said == (
        f"{tmp_path}/images/train: there is no such image folder; {tmp_path} looks like Upstage JSON with other names of folders: "
        "data=auto looks for them"
    )


def test_other_names_of_folders_are_left_to_data_auto(drawn, tmp_path):
    shutil.copytree(drawn / "images/train", tmp_path / "train/pictures")
    shutil.copy(drawn / "jsons/train.json", tmp_path / "train/words.json")
    said = error_of("data=upstage", f"dataset_base_path={tmp_path}")
    assert said.endswith(f"; {tmp_path} looks like Upstage JSON with other names of folders: data=auto looks for them")


def test_a_wrong_annotation_path_is_named_beside_a_right_folder(drawn, tmp_path):
    for missing in (drawn / "jsons/nope.json", tmp_path / "nope.json"):
        key = "datasets.train_dataset.config.annotation_path"
        said = error_of("data=upstage", f"dataset_base_path={drawn}", f"{key}={missing}")
        assert said.startswith(f"{missing}: there is no such annotation file or folder; check annotation_path")
        assert "looks like" not in said


def test_a_folder_that_does_not_exist_is_named(tmp_path):
    said = error_of("data=upstage", f"dataset_base_path={tmp_path}/none")
    assert said.endswith(f"or folder; the folder {tmp_path}/none does not exist; check dataset_base_path")
    tmp_path.joinpath("notes.txt").write_text("no data set")
    assert "; check dataset_base_path, or choose the layout" in error_of(
        "data=upstage", f"dataset_base_path={tmp_path}"
    )
