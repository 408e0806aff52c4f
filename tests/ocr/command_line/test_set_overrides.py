import json

import pytest

from ocr.command_line import CONFIG_DIR, compose_config
from ocr.command_line.set_overrides import with_sets
from ocr.config import TrainConfig
from ocr.errors import InputError


def composed(*overrides: str) -> TrainConfig:
    return compose_config(TrainConfig, "train", overrides)


def test_two_data_sets_with_a_folder_each():
    config = composed(
        "data=[upstage,icdar]",
        "dataset_base_path=[a b/x,'/c(d)=, it\\'s']",
        "datasets.train_dataset.config.sets.0.weight=2",
        "datasets.train_dataset.config.sets.1.weight=1",
        "performance=baseline",
    )
    train, val = config.datasets.split("train"), config.datasets.split("val")
    folder = "/c(d)=, it's"
    assert [(one.name, one.weight, one.image_path) for one in train.sets] == [
        ("upstage", 2, "a b/x/images/train"),
        ("icdar", 1, f"{folder}/ch4_training_images"),
    ]
    assert [one.annotation_path for one in val.sets] == ["a b/x/jsons/val.json", f"{folder}/Challenge4_Test_Task1_GT"]
    assert [one.weight for one in val.sets] == [None, None]
    assert not val.preload_images  # the preset still holds


def test_data_sets_in_their_usual_folders_and_one_kind_twice():
    assert composed("data=[upstage,icdar]").datasets.split("val").set_names == ["upstage", "icdar"]
    twice = composed("data=[upstage,upstage]", "dataset_base_path=[/data/receipts,/data/scenes]")
    assert twice.datasets.split("train").set_names == ["receipts", "scenes"]


def test_a_choice_that_is_several_sets_itself_brings_them_all():
    config = composed("data=[sroie_and_icdar15,upstage]", "dataset_base_path=[/data/real,/data/own]")
    train, val = config.datasets.split("train"), config.datasets.split("val")
    assert train.set_names == ["receipts", "more_receipts", "scenes", "more_scenes", "upstage"]
    assert [one.image_path for one in val.sets] == [
        "/data/real/sroie_lines/images/val",
        "/data/real/icdar15_words/images/val",
        "/data/own/images/val",
    ]


def test_the_drawn_set_is_drawn_in_its_own_folder():
    config = composed("data=[upstage,synthetic]", "dataset_base_path=[/data/own,/data/drawn]")
    assert config.draw_synthetic
    assert config.dataset_base_path == "/data/drawn"
    assert config.datasets.split("val").set_names == ["upstage", "synthetic"]


def test_a_list_of_one_is_the_plain_form():
    listed = composed("data=[icdar]", "dataset_base_path=[/d]")
    assert listed == composed("data=icdar", "dataset_base_path=/d")
    one = composed("data=upstage", "datasets.train_dataset.config=[{image_path:a,annotation_path:b}]")
    assert one.datasets.split("train").image_path == "a"


def test_config_takes_a_list():
    config = composed("data=upstage", "datasets.train_dataset.config=[{image_path:a,weight:2},{image_path:b,weight:1}]")
    assert [(one.image_path, one.weight) for one in config.datasets.split("train").sets] == [("a", 2), ("b", 1)]
    assert json.loads(config.model_dump_json())["datasets"]["train_dataset"]["config"]["sets"][1]["image_path"] == "b"


@pytest.mark.parametrize(
    ("overrides", "found"),
    [
        (["data=[upstage,icdar]", "dataset_base_path=[a]"], "found 1 folders for the 2 data sets"),
        (["data=[upstage,icdar]", "dataset_base_path=a"], "found 1 folders for the 2 data sets"),
        (["data=[upstage,webdataset]"], "shards cannot be mixed"),
        (["data=[]"], "no data set"),
        (
            ["data=[auto,upstage]", "dataset_base_path=[nowhere,b]"],
            "^data=auto dataset_base_path='nowhere': nowhere: there is no such",
        ),
        (["data=[upstage,icdar]", "dataset_base_path=[a(b,c]"], "not a list that Hydra can read"),
    ],
)
def test_lists_that_do_not_fit_are_named(overrides, found):
    with pytest.raises(InputError, match=found):
        with_sets(overrides, CONFIG_DIR)


def test_other_arguments_stay_as_they_are():
    arguments = ["data=upstage", "dataset_base_path=x", "--cfg", "job", "datasets.train_dataset.config.image_path=[a]"]
    assert with_sets(arguments, CONFIG_DIR) == arguments
