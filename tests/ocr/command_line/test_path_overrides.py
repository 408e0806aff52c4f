"""Paths on a command line reach the configuration as they were typed."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from ocr.command_line import CONFIG_DIR, prepare_hydra
from ocr.command_line.path_overrides import with_literal_paths
from ocr.command_line.set_overrides import with_sets
from ocr.config import ExportConfig, PredictConfig, TrainConfig

SECTIONS = (PredictConfig, TrainConfig, ExportConfig)

AS_TYPED = [
    "영수증",
    "é.jpg",
    "a=b (1).jpg",
    "a,b.jpg",
    "a, b, c",
    "it's.jpg",
    '"a".jpg',
    "[a].jpg",
    "[a=b.jpg",
    "{x}",
    "{a: 1}",
    "2024",
    "1e3",
    "true",
    "0x10",
    "-dash.jpg",
    "~/scans",
    "a b.jpg",
    "a#b;c&d!e.jpg",
    "a\\b.jpg",
    "ends with\\",
    "back\\'slash",
    "choice(a,b)",
    "scans/**/*.jpg",
    "C:/data",
    "@list.txt",
    "x.jpg,",
    "$HOME",
    "a:b",
    "line\nbreak",
]


def read_by_hydra(argument: str) -> object:
    (changed,) = with_literal_paths([argument], SECTIONS)
    return OmegaConf.create(
        {"exp_name": "here", "value": OverridesParser.create().parse_override(changed).value()}
    ).value


@pytest.mark.parametrize("path", AS_TYPED)
def test_a_path_is_taken_as_typed(path: str) -> None:
    assert read_by_hydra(f"images={path}") == path


@pytest.mark.parametrize("path", ["[a]", "null", "'a'", " a", "a ", "${x}", "a\\=b"])
def test_the_name_of_an_existing_file_is_that_name(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / path).touch()
    monkeypatch.chdir(tmp_path)
    assert read_by_hydra(f"images={path}") == path


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("null", None),
        ("", ""),
        ("[a.jpg,b c.jpg]", ["a.jpg", "b c.jpg"]),
        ("[a=b.jpg, 영수증,'c,d.jpg']", ["a=b.jpg", "영수증", "c,d.jpg"]),
        ("[2024,2025]", ["2024", "2025"]),
        ("[A, 2024.10,1e5,true,'0x10']", ["A", "2024.10", "1e5", "true", "0x10"]),
        ("[é, ]", ["é", ""]),
        ("'a=b.jpg'", "a=b.jpg"),
        ('"a=b.jpg"', "a=b.jpg"),
        ("a\\=b.jpg", "a=b.jpg"),
        ("${exp_name}/a", "here/a"),
    ],
)
def test_what_hydra_means_by_quotes_lists_and_escapes_stays(value: str, expected: object) -> None:
    assert read_by_hydra(f"images={value}") == expected


@pytest.mark.parametrize("key", ["output", "++output", "checkpoint", "datasets.predict_dataset.config.image_path"])
def test_other_keys_of_text_are_taken_as_typed_too(key: str) -> None:
    assert read_by_hydra(f"{key}=é, b (1)") == "é, b (1)"


@pytest.mark.parametrize("key", ["average", "logger.wandb.tags"])
def test_elements_of_keys_that_hold_only_lists_are_taken_as_typed_too(key: str) -> None:
    assert read_by_hydra(f"{key}=[a=b (1).ckpt,é]") == ["a=b (1).ckpt", "é"]


def test_a_command_gets_the_path() -> None:
    prepare_hydra()
    overrides = with_literal_paths(["images=영=수 (1)", "output=a,b"], SECTIONS)
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        config = compose("predict", overrides=overrides)
    assert (config.images, config.output) == ("영=수 (1)", "a,b")


def test_folders_of_several_sets_are_taken_as_typed() -> None:
    given = ["data=[upstage,upstage]", "dataset_base_path=[2024.10,1e5]"]
    chosen = with_sets(with_literal_paths(given, SECTIONS), CONFIG_DIR)
    sets = next(argument for argument in chosen if argument.startswith("datasets.train_dataset.config.sets="))
    assert "2024.10/" in sets
    assert "1e5/" in sets


@pytest.mark.parametrize(
    "arguments",
    [
        ["draw=false"],
        ["postprocess.box_thresh=0.5,0.6"],
        ["data=upstage"],
        ["--cfg", "job", "-cd=/a=b"],
        ["~images"],
        ["exp_name=a,b", "-m"],
        ["images=[a,b]"],
        ["hydra.run.dir=outputs/${now:%Y}"],
        ["scan (1).jpg"],
    ],
)
def test_all_other_arguments_stay_as_they_are(arguments: list[str]) -> None:
    assert with_literal_paths(arguments, SECTIONS) == arguments
