import errno
import json
import os
import shutil
from pathlib import Path

import pytest

from ocr.command_line import compose_config
from ocr.config import TrainConfig
from ocr.datasets import layout
from ocr.datasets.audit import load_manifest
from ocr.datasets.formats.look import Look, look_at
from ocr.datasets.formats.read import FORMATS
from ocr.datasets.layout import find_splits, split_of
from ocr.errors import InputError
from tests.ocr.datasets.formats.example_set import EXTENSIONS, QUADS, flat, write_images

ROOT = Path(__file__).resolve().parents[3]
SHARED_CASES = ROOT.parent / "shared" / "cases"


def write_texts(folder: Path, name: str = "gt_{stem}.txt", encoding: str = "utf-8") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for filename, words in QUADS.items():
        content = "\n".join(f"{flat(points)},{text}" for points, text in words)
        (folder / name.format(stem=Path(filename).stem, filename=filename)).write_text(content, encoding)


def write_upstage(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    entries = {
        name: {"words": {str(i): {"points": w[0]} for i, w in enumerate(words)}} for name, words in QUADS.items()
    }
    path.write_text(json.dumps({"images": entries}))


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("ch4_training_images", "train"),
        ("Challenge4_Test_Task1_GT", "test"),
        ("annotations/instances_val2017.json", "val"),
        ("0325updated.task1train(626p)", "train"),
        ("train/val_notes.json", "val"),
        ("imagesTest", "test"),
        ("Images/Train", "train"),
        ("labels/valid/a.txt", "val"),
        ("trainers/gt", None),
        ("contest/gt", None),
    ],
)
def test_names_tell_the_split_by_whole_words(path: str, split: str | None) -> None:
    assert split_of(Path("/data/train", path), "/data/train") == split


@pytest.mark.parametrize(
    ("layout", "texts", "format_name"),
    [
        ("{split}_images {split}_gts", "{filename}.txt", "db"),
        ("images/{split} labels/{split}", "{stem}.txt", "sroie"),
        ("{split}/img {split}/gt", "gt_{stem}.txt", "icdar"),
        ("{split} {split}", "{stem}.txt", "sroie"),
    ],
)
def test_usual_folder_names_are_found(layout: str, texts: str, format_name: str, tmp_path: Path) -> None:
    places = {}
    for split in ("train", "test"):
        images, annotations = (tmp_path / part for part in layout.format(split=split).split())
        write_images(images)
        write_texts(annotations, texts)
        (tmp_path / f"{split}_list.txt").write_text("\n".join(QUADS))
        places[split] = (str(images), str(annotations), format_name)
    found = find_splits(str(tmp_path), EXTENSIONS)
    as_tuples = {name: (one.image_path, one.annotation_path, one.annotation_format) for name, one in found.items()}
    assert as_tuples == places | {"val": places["test"]}


def test_a_run_gets_the_paths_and_the_log_says_how_sure_the_look_is(
    drawn: Path, caplog: pytest.LogCaptureFixture
) -> None:
    find_splits.cache_clear()
    caplog.set_level("INFO")
    config = compose_config(TrainConfig, "train", ["data=auto", f"dataset_base_path={drawn}"])
    for name in ("train", "val"):
        split = config.datasets.split(name)
        assert (split.image_path, split.annotation_path) == (f"{drawn}/images/{name}", f"{drawn}/jsons/{name}.json")
        assert f"data=auto: {name}: {drawn}/jsons/{name}.json: Upstage JSON (certain: " in caplog.text
    assert config.datasets.split("test") == config.datasets.split("val")
    assert len(load_manifest(config.datasets.split("val"), max_megapixels=100)[0]) == 8


def test_a_folder_without_names_of_splits_is_training_data(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_images(tmp_path / "img")
    write_texts(tmp_path / "gt")
    config = compose_config(TrainConfig, "train", ["data=auto", f"dataset_base_path={tmp_path}"])
    assert config.datasets.split("train").annotation_path == str(tmp_path / "gt")
    assert not config.datasets.has_split("val")
    assert config.datasets.val_dataset.config.annotation_frame == "stored"
    assert "found no names of splits, so all of it is training data" in caplog.text


def test_links_that_lead_nowhere_and_closed_folders_are_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write_images(tmp_path / "images/train")
    write_upstage(tmp_path / "jsons/train.json")
    for link, target in (("notes.txt", "gone.txt"), ("loop", "loop"), ("loop.json", "loop.json")):
        (tmp_path / link).symlink_to(target)
    closed = tmp_path / "lost+found"
    closed.mkdir()

    def look(path: Path) -> Look:
        if path == closed:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return look_at(path)

    monkeypatch.setattr(layout, "look_at", look)  # root may read every folder
    assert list(find_splits(str(tmp_path), EXTENSIONS)) == ["train"]
    assert f"{closed}: skipped: cannot be read: Permission denied" in caplog.text


def test_the_canonical_images_are_chosen_where_both_fit(tmp_path: Path) -> None:
    for folder in ("images/val", "images_val_canonical"):
        write_images(tmp_path / folder)
    write_upstage(tmp_path / "jsons/val.json")
    assert find_splits(str(tmp_path), EXTENSIONS)["val"].image_path == str(tmp_path / "images_val_canonical")


def test_the_image_folder_that_holds_the_annotated_images_is_chosen(tmp_path: Path) -> None:
    write_images(tmp_path / "photos")
    write_images(tmp_path / "icons", ["other.jpg"])
    write_upstage(tmp_path / "labels.json")
    assert find_splits(str(tmp_path), EXTENSIONS)["train"].image_path == str(tmp_path / "photos")


def test_two_annotations_that_fit_equally_are_named(tmp_path: Path) -> None:
    write_images(tmp_path / "images")
    write_upstage(tmp_path / "train_a.json")
    write_upstage(tmp_path / "train_b.json")
    with pytest.raises(
        InputError, match=r"fit equally well: .*train_a\.json: Upstage JSON .*; .*train_b\.json: Upstage"
    ):
        find_splits(str(tmp_path), EXTENSIONS)


def test_a_folder_without_annotations_is_described(tmp_path: Path) -> None:
    write_images(tmp_path / "images")
    with pytest.raises(
        InputError, match=r"images in 1 of 2 folders, but no annotations .*; scripts/predict\.py finds text without"
    ):
        find_splits(str(tmp_path), EXTENSIONS)


def test_a_wrong_folder_ends_a_run_with_one_line(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"^The configuration is wrong: .*/none: there is no such folder; .*data set$"):
        compose_config(TrainConfig, "train", ["data=auto", f"dataset_base_path={tmp_path}/none"])


@pytest.mark.parametrize("name", [one.name for one in FORMATS])
def test_each_format_has_a_data_file_that_chooses_it(name: str) -> None:
    config = compose_config(TrainConfig, "train", [f"data={name}", "dataset_base_path=somewhere"])
    assert config.datasets.split("train").annotation_format == name
    for split in ("train", "val", "test"):
        assert config.datasets.split(split).image_path.startswith("somewhere/")


@pytest.mark.parametrize(
    ("case", "format_name"),
    [("mlt_script_column", "mlt"), ("ctw1500_offsets", "ctw1500"), ("db_list_layout", "db"), ("boxes_xywh", "icdar")],
)
def test_the_shared_cases_are_found(case: str, format_name: str, tmp_path: Path) -> None:
    if not SHARED_CASES.is_dir():
        pytest.skip("the cases are not at ../shared/cases")
    shutil.copytree(SHARED_CASES / case, tmp_path / case)
    assert find_splits(str(tmp_path / case), EXTENSIONS)["train"].annotation_format == format_name
